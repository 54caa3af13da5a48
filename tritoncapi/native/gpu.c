/* The CUDA driver calls. No toolkit is needed to build: the few prototypes stand here and libcuda.so.1 is opened late. */
#define _GNU_SOURCE
#include "gpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

typedef int cu_result;
typedef struct cu_context *cu_context;
typedef unsigned long long cu_pointer;
struct cu_ipc_handle {
  unsigned char bytes[64];
};

enum { MAX_DEVICES = 64, HOST_PORTABLE = 1 };

static struct {
  cu_result (*init)(unsigned);
  cu_result (*device_count)(int *);
  cu_result (*device_get)(int *, int);
  cu_result (*retain)(cu_context *, int);
  cu_result (*push)(cu_context);
  cu_result (*pop)(cu_context *);
  cu_result (*alloc)(cu_pointer *, size_t);
  cu_result (*free)(cu_pointer);
  cu_result (*host_alloc)(void **, size_t, unsigned);
  cu_result (*host_free)(void *);
  cu_result (*fill)(cu_pointer, unsigned char, size_t);
  cu_result (*synchronize)(void);
  cu_result (*ipc_handle)(struct cu_ipc_handle *, cu_pointer);
  cu_result (*error_name)(cu_result, const char **);
} cu;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *unavailable; /* why there is no CUDA here, or NULL */
static pthread_mutex_t contexts_lock = PTHREAD_MUTEX_INITIALIZER;
static cu_context contexts[MAX_DEVICES];
static _Thread_local char sentence[160];

static const char *failed(const char *call, cu_result result) {
  const char *name = NULL;
  if (!cu.error_name || cu.error_name(result, &name) || !name) name = "unknown CUDA error";
  snprintf(sentence, sizeof sentence, "%s: %s (%d)", call, name, result);
  return sentence;
}

static void open_driver(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    unavailable = "no CUDA driver on this machine (libcuda.so.1 cannot be loaded)";
    return;
  }
  const struct {
    const char *name;
    void *target;
  } rows[] = {
      {"cuInit", &cu.init},
      {"cuDeviceGetCount", &cu.device_count},
      {"cuDeviceGet", &cu.device_get},
      {"cuDevicePrimaryCtxRetain", &cu.retain},
      {"cuCtxPushCurrent_v2", &cu.push},
      {"cuCtxPopCurrent_v2", &cu.pop},
      {"cuMemAlloc_v2", &cu.alloc},
      {"cuMemFree_v2", &cu.free},
      {"cuMemHostAlloc", &cu.host_alloc},
      {"cuMemFreeHost", &cu.host_free},
      {"cuMemsetD8_v2", &cu.fill},
      {"cuCtxSynchronize", &cu.synchronize},
      {"cuIpcGetMemHandle", &cu.ipc_handle},
      {"cuGetErrorName", &cu.error_name},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    void *symbol = dlsym(library, rows[i].name);
    if (!symbol) {
      unavailable = "the CUDA driver on this machine is too old";
      return;
    }
    memcpy(rows[i].target, &symbol, sizeof symbol);
  }
  static char reason[160];
  cu_result result = cu.init(0);
  if (result) {
    snprintf(reason, sizeof reason, "the CUDA driver cannot start: %s", failed("cuInit", result));
    unavailable = reason;
  }
}

/* Makes `device`'s primary context current; leave() restores what was current before. */
static const char *enter(int device) {
  pthread_once(&once, open_driver);
  if (unavailable) return unavailable;
  if (device < 0 || device >= MAX_DEVICES) return "no such GPU";
  cu_result result = 0;
  const char *call = "cuDevicePrimaryCtxRetain";
  pthread_mutex_lock(&contexts_lock);
  if (!contexts[device]) {
    int handle = 0;
    result = cu.device_get(&handle, device);
    if (result)
      call = "cuDeviceGet";
    else
      result = cu.retain(&contexts[device], handle);
  }
  cu_context context = contexts[device];
  pthread_mutex_unlock(&contexts_lock);
  if (result) return failed(call, result);
  result = cu.push(context);
  return result ? failed("cuCtxPushCurrent", result) : NULL;
}

static void leave(void) {
  cu_context popped;
  cu.pop(&popped);
}

const char *tc_pinned_alloc(size_t byte_size, void **buffer) {
  const char *error = enter(0);
  if (error) return error;
  cu_result result = cu.host_alloc(buffer, byte_size, HOST_PORTABLE);
  leave();
  return result ? failed("cuMemHostAlloc", result) : NULL;
}

const char *tc_pinned_free(void *buffer) {
  const char *error = enter(0);
  if (error) return error;
  cu_result result = cu.host_free(buffer);
  leave();
  return result ? failed("cuMemFreeHost", result) : NULL;
}

const char *tc_gpu_alloc(int device, size_t byte_size, void **buffer) {
  const char *error = enter(device);
  if (error) return error;
  cu_pointer pointer = 0;
  cu_result result = cu.alloc(&pointer, byte_size);
  leave();
  if (result) return failed("cuMemAlloc", result);
  *buffer = (void *)(uintptr_t)pointer;
  return NULL;
}

const char *tc_gpu_free(int device, void *buffer) {
  const char *error = enter(device);
  if (error) return error;
  cu_result result = cu.free((cu_pointer)(uintptr_t)buffer);
  leave();
  return result ? failed("cuMemFree", result) : NULL;
}

const char *tc_gpu_fill(int device, void *buffer, size_t byte_size, unsigned char value) {
  const char *error = enter(device);
  if (error) return error;
  cu_result result = cu.fill((cu_pointer)(uintptr_t)buffer, value, byte_size);
  if (!result) result = cu.synchronize(); /* it must not come after what the model writes on a stream of its own */
  leave();
  return result ? failed("cuMemsetD8", result) : NULL;
}

const char *tc_gpu_ipc_handle(int device, void *buffer, unsigned char handle[64]) {
  const char *error = enter(device);
  if (error) return error;
  struct cu_ipc_handle ipc;
  cu_result result = cu.ipc_handle(&ipc, (cu_pointer)(uintptr_t)buffer);
  leave();
  if (result) return failed("cuIpcGetMemHandle", result);
  memcpy(handle, ipc.bytes, sizeof ipc.bytes);
  return NULL;
}
