/* The CUDA driver library: opened at run time, so that the backend loads where there is no driver. */
#define _POSIX_C_SOURCE 200809L
#include "cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "errors.h"

/* The one piece of state that all servers in the process share: written once, read-only afterwards. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static cuda_driver table;
static char problem[512];

static void load(void) {
  /* Never closed: a driver that has been initialised does not survive being unloaded. */
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    const char* why = dlerror();
    snprintf(problem, sizeof problem, "the CUDA driver could not be loaded: %s", why == NULL ? "unknown" : why);
    return;
  }
  void* symbol;
#define CUDA_LOAD(name, parameters)                                                                  \
  symbol = dlsym(library, #name);                                                                    \
  if (symbol == NULL) {                                                                              \
    snprintf(problem, sizeof problem, "the CUDA driver (libcuda.so.1) has no function %s", #name);   \
    return;                                                                                          \
  }                                                                                                  \
  memcpy(&table.name, &symbol, sizeof symbol); /* ISO C has no cast from object to function pointer */
  CUDA_FUNCTIONS(CUDA_LOAD)
#undef CUDA_LOAD
  const cu_result result = table.cuInit(0);
  if (result != 0) {
    const char* name = NULL;
    table.cuGetErrorName(result, &name);
    snprintf(problem, sizeof problem, "cuInit failed: %s (%d)", name == NULL ? "unknown error" : name, result);
  }
}

TRITONSERVER_Error* cuda_driver_get(const cuda_driver** driver) {
  pthread_once(&once, load);
  if (problem[0] != '\0') return error_new(TRITONSERVER_ERROR_UNAVAILABLE, "%s", problem);
  *driver = &table;
  return NULL;
}

TRITONSERVER_Error* cuda_check(cu_result result, const char* call) {
  if (result == 0) return NULL;
  const char* name = NULL;
  const char* text = NULL;
  table.cuGetErrorName(result, &name);
  table.cuGetErrorString(result, &text);
  return error_new(TRITONSERVER_ERROR_INTERNAL, "%s failed: %s (%d), %s", call, name == NULL ? "unknown error" : name,
                   result, text == NULL ? "no description" : text);
}
