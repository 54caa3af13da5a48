/* The few declarations of tritonserver.h that the native part needs, and the table it calls Triton through. */
#ifndef TRITONCAPI_TRITON_H
#define TRITONCAPI_TRITON_H

#include <stddef.h>
#include <stdint.h>

typedef struct TRITONSERVER_BufferAttributes TRITONSERVER_BufferAttributes;
typedef struct TRITONSERVER_Error TRITONSERVER_Error;
typedef struct TRITONSERVER_InferenceRequest TRITONSERVER_InferenceRequest;
typedef struct TRITONSERVER_InferenceResponse TRITONSERVER_InferenceResponse;
typedef struct TRITONSERVER_InferenceTrace TRITONSERVER_InferenceTrace;
typedef struct TRITONSERVER_ResponseAllocator TRITONSERVER_ResponseAllocator;
typedef struct TRITONSERVER_Server TRITONSERVER_Server;

enum { TC_MEMORY_CPU = 0, TC_MEMORY_PINNED = 1, TC_MEMORY_GPU = 2 };
enum { TC_ERROR_INTERNAL = 1, TC_ERROR_INVALID_ARG = 3, TC_ERROR_UNAVAILABLE = 4 };
enum { TC_RELEASE_ALL = 1 };
enum { TC_SEQUENCE_START = 1, TC_SEQUENCE_END = 2 };
enum { TC_RESPONSE_FINAL = 1 };

typedef void (*tc_release_fn)(TRITONSERVER_InferenceRequest *, const uint32_t, void *);
typedef void (*tc_response_fn)(TRITONSERVER_InferenceResponse *, const uint32_t, void *);

/* Found with dlsym in the library that Python loaded: this part is linked to no Triton, so it fits any. */
struct tc_triton {
  TRITONSERVER_Error *(*ErrorNew)(int code, const char *message);
  TRITONSERVER_Error *(*InferenceRequestNew)(
      TRITONSERVER_InferenceRequest **, TRITONSERVER_Server *, const char *model, int64_t version);
  TRITONSERVER_Error *(*InferenceRequestAddInput)(
      TRITONSERVER_InferenceRequest *, const char *name, int datatype, const int64_t *shape, uint64_t dims);
  TRITONSERVER_Error *(*InferenceRequestAppendInputData)(
      TRITONSERVER_InferenceRequest *, const char *name, const void *base, size_t byte_size, int memory_type,
      int64_t device);
  TRITONSERVER_Error *(*InferenceRequestSetReleaseCallback)(TRITONSERVER_InferenceRequest *, tc_release_fn, void *);
  TRITONSERVER_Error *(*InferenceRequestSetResponseCallback)(
      TRITONSERVER_InferenceRequest *, TRITONSERVER_ResponseAllocator *, void *, tc_response_fn, void *);
  TRITONSERVER_Error *(*ServerInferAsync)(
      TRITONSERVER_Server *, TRITONSERVER_InferenceRequest *, TRITONSERVER_InferenceTrace *);
  TRITONSERVER_Error *(*InferenceRequestDelete)(TRITONSERVER_InferenceRequest *);
  TRITONSERVER_Error *(*InferenceResponseDelete)(TRITONSERVER_InferenceResponse *);
  void (*ErrorDelete)(TRITONSERVER_Error *);
  TRITONSERVER_Error *(*InferenceResponseError)(TRITONSERVER_InferenceResponse *); /* tc_response_error_done */
  TRITONSERVER_Error *(*InferenceResponseOutputCount)(TRITONSERVER_InferenceResponse *, uint32_t *);
  TRITONSERVER_Error *(*InferenceResponseOutput)(
      TRITONSERVER_InferenceResponse *, uint32_t index, const char **name, int *datatype, const int64_t **shape,
      uint64_t *dims, const void **base, size_t *byte_size, int *memory_type, int64_t *device, void **userp);
  int (*ErrorCode)(TRITONSERVER_Error *);
  const char *(*ErrorMessage)(TRITONSERVER_Error *);
  TRITONSERVER_Error *(*InferenceRequestSetFlags)(TRITONSERVER_InferenceRequest *, uint32_t);
  TRITONSERVER_Error *(*InferenceRequestSetCorrelationId)(TRITONSERVER_InferenceRequest *, uint64_t);
  TRITONSERVER_Error *(*InferenceRequestCancel)(TRITONSERVER_InferenceRequest *); /* NULL before C API 1.25 */
  TRITONSERVER_Error *(*BufferAttributesSetCudaIpcHandle)(TRITONSERVER_BufferAttributes *, void *);
};
extern struct tc_triton tc_triton;

void tc_response_error_done(TRITONSERVER_InferenceResponse *response, TRITONSERVER_Error *error);

/* Nanoseconds of CLOCK_MONOTONIC: the clock of Triton's own time stamps and of Python's time.monotonic_ns(). */
int64_t tc_now(void);

/* The kernel's id of this thread. */
int64_t tc_thread(void);

#endif
