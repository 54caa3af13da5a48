/* Binds the function table to a loaded libtritonserver. */
#define _GNU_SOURCE
#include "triton.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct tc_triton tc_triton;

int64_t tc_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t tc_thread(void) {
  static _Thread_local int64_t id;
  if (!id) id = (int64_t)syscall(SYS_gettid);
  return id;
}

/* Returns NULL, or the name of the first function that the library lacks. */
const char *tc_bind(void *library) {
  static const struct {
    const char *name;
    size_t offset;
  } rows[] = {
#define ROW(function) {"TRITONSERVER_" #function, offsetof(struct tc_triton, function)}
      ROW(ErrorNew),
      ROW(InferenceRequestSetReleaseCallback),
      ROW(InferenceRequestSetResponseCallback),
      ROW(ServerInferAsync),
      ROW(InferenceRequestNew),
      ROW(InferenceRequestAddInput),
      ROW(InferenceRequestAppendInputData),
      ROW(InferenceRequestDelete),
      ROW(InferenceResponseDelete),
      ROW(ErrorDelete),
      ROW(InferenceResponseError),
      ROW(InferenceResponseOutputCount),
      ROW(InferenceResponseOutput),
      ROW(ErrorCode),
      ROW(ErrorMessage),
      ROW(InferenceRequestSetFlags),
      ROW(InferenceRequestSetCorrelationId),
      ROW(BufferAttributesSetCudaIpcHandle),
#undef ROW
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    void *symbol = dlsym(library, rows[i].name);
    if (!symbol) return rows[i].name;
    memcpy((char *)&tc_triton + rows[i].offset, &symbol, sizeof symbol);
  }
  void *cancel = dlsym(library, "TRITONSERVER_InferenceRequestCancel");
  memcpy(&tc_triton.InferenceRequestCancel, &cancel, sizeof cancel);
  return NULL;
}

/* An error that InferenceResponseError gave was read. tritonserver.h says that the response owns it; in fact Triton makes
 * one at each call and forgets it (2.51). Two calls for one response tell: where they give different ones, each is ours. */
void tc_response_error_done(TRITONSERVER_InferenceResponse *response, TRITONSERVER_Error *error) {
  enum { UNKNOWN, OURS, THEIRS };
  static atomic_int whose = UNKNOWN;
  int known = atomic_load_explicit(&whose, memory_order_relaxed);
  if (known == UNKNOWN) {
    TRITONSERVER_Error *another = tc_triton.InferenceResponseError(response);
    known = another && another != error ? OURS : THEIRS;
    atomic_store_explicit(&whose, known, memory_order_relaxed);
    if (known == OURS) tc_triton.ErrorDelete(another);
  }
  if (known == OURS) tc_triton.ErrorDelete(error);
}
