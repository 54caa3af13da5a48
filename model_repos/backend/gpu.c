/* A GPU in use by one model instance: the device's primary context, a stream, and the kernels. */
#include "gpu.h"

#include <stdlib.h>

#include "errors.h"
#include "kernels.h"

enum { BLOCK_WIDTH = 256, MOST_BLOCKS = 4096 };

static TRITONSERVER_Error* retain(const cuda_driver* driver, int64_t ordinal, cu_device* device, cu_context* context) {
  int count = 0;
  CUDA_TRY(driver, cuDeviceGetCount, &count);
  if (ordinal < 0 || ordinal >= count) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "there is no GPU %lld: the CUDA driver sees %d",
                     (long long)ordinal, count);
  }
  CUDA_TRY(driver, cuDeviceGet, device, (int)ordinal);
  CUDA_TRY(driver, cuDevicePrimaryCtxRetain, context, *device);
  return NULL;
}

static TRITONSERVER_Error* prepare(gpu* it) {
  const cuda_driver* driver = it->driver;
  static const char* const names[] = {"add_s32", "sub_s32", "add_f32", "sub_f32"};
  CUDA_TRY(driver, cuStreamCreate, &it->stream, CU_STREAM_NON_BLOCKING_FLAG);
  CUDA_TRY(driver, cuModuleLoadData, &it->module, kernels_ptx);
  for (int i = 0; i < 4; i++) CUDA_TRY(driver, cuModuleGetFunction, &it->kernels[i], it->module, names[i]);
  return NULL;
}

TRITONSERVER_Error* gpu_open(int64_t ordinal, gpu** opened) {
  const cuda_driver* driver;
  TRY(cuda_driver_get(&driver));
  gpu* it = calloc(1, sizeof *it);
  if (it == NULL) return error_no_memory(sizeof *it);
  it->ordinal = (int)ordinal;
  it->driver = driver;
  TRITONSERVER_Error* error = retain(driver, ordinal, &it->device, &it->context);
  if (error == NULL) {
    error = gpu_enter(it);
    if (error == NULL) {
      error = prepare(it);
      gpu_leave(it);
    }
  }
  if (error != NULL) {
    gpu_close(it, false);
    return error;
  }
  *opened = it;
  return NULL;
}

void gpu_close(gpu* it, bool keep_context) {
  if (it == NULL) return;
  if (it->context != NULL) {
    TRITONSERVER_Error* error = gpu_enter(it);
    if (error == NULL) {
      if (it->module != NULL) {
        error_log(cuda_check(it->driver->cuModuleUnload(it->module), "cuModuleUnload"), "closing");
      }
      if (it->stream != NULL) {
        error_log(cuda_check(it->driver->cuStreamDestroy_v2(it->stream), "cuStreamDestroy_v2"), "closing");
      }
      gpu_leave(it);
    }
    error_log(error, "closing");
    if (!keep_context) {
      error_log(cuda_check(it->driver->cuDevicePrimaryCtxRelease_v2(it->device), "cuDevicePrimaryCtxRelease_v2"),
                "closing");
    }
  }
  free(it);
}

TRITONSERVER_Error* gpu_enter(const gpu* it) {
  CUDA_TRY(it->driver, cuCtxPushCurrent_v2, it->context);
  return NULL;
}

void gpu_leave(const gpu* it) {
  cu_context popped;
  error_log(cuda_check(it->driver->cuCtxPopCurrent_v2(&popped), "cuCtxPopCurrent_v2"), "leaving the GPU's context");
}

TRITONSERVER_Error* gpu_allocate(const gpu* it, size_t byte_size, cu_address* address) {
  CUDA_TRY(it->driver, cuMemAlloc_v2, address, byte_size);
  return NULL;
}

void gpu_release(const gpu* it, cu_address address) {
  error_log(cuda_check(it->driver->cuMemFree_v2(address), "cuMemFree_v2"), "freeing GPU memory");
}

TRITONSERVER_Error* gpu_launch(const gpu* it, gpu_kernel kernel, cu_address result, cu_address left, cu_address right,
                               uint64_t count) {
  if (count == 0) return NULL; /* the driver refuses a grid of no blocks */
  void* parameters[] = {&result, &left, &right, &count};
  uint64_t blocks = (count + BLOCK_WIDTH - 1) / BLOCK_WIDTH;
  if (blocks > MOST_BLOCKS) blocks = MOST_BLOCKS;
  CUDA_TRY(it->driver, cuLaunchKernel, it->kernels[kernel], (unsigned)blocks, 1, 1, BLOCK_WIDTH, 1, 1, 0, it->stream,
           parameters, NULL);
  return NULL;
}

TRITONSERVER_Error* gpu_wait(const gpu* it) {
  CUDA_TRY(it->driver, cuStreamSynchronize, it->stream);
  return NULL;
}

/* A device's context for the length of one call: the instance's own, or one retained for it. */
typedef struct {
  cu_context context;
  cu_device device;
  bool retained;
} visit;

static TRITONSERVER_Error* visit_begin(const cuda_driver* driver, const gpu* own, int64_t ordinal, visit* v) {
  if (ordinal < 0) return NULL;
  if (own != NULL && own->ordinal == ordinal) {
    v->context = own->context;
    return NULL;
  }
  TRY(retain(driver, ordinal, &v->device, &v->context));
  v->retained = true;
  return NULL;
}

static void visit_end(const cuda_driver* driver, const visit* v) {
  if (!v->retained) return;
  error_log(cuda_check(driver->cuDevicePrimaryCtxRelease_v2(v->device), "cuDevicePrimaryCtxRelease_v2"),
            "leaving another GPU");
}

typedef struct {
  void* to;
  const void* from; /* NULL: fill with zeros */
  int64_t to_ordinal, from_ordinal;
  size_t byte_size;
} transfer;

static TRITONSERVER_Error* queue(const cuda_driver* driver, const transfer* t, const visit* to, const visit* from,
                                 cu_stream stream) {
  const cu_address to_address = (cu_address)(uintptr_t)t->to;
  const cu_address from_address = (cu_address)(uintptr_t)t->from;
  if (t->from == NULL) {
    CUDA_TRY(driver, cuMemsetD8Async, to_address, 0, t->byte_size, stream);
  } else if (t->from_ordinal < 0) {
    CUDA_TRY(driver, cuMemcpyHtoDAsync_v2, to_address, t->from, t->byte_size, stream);
  } else if (t->to_ordinal < 0) {
    CUDA_TRY(driver, cuMemcpyDtoHAsync_v2, t->to, from_address, t->byte_size, stream);
  } else if (t->to_ordinal == t->from_ordinal) {
    CUDA_TRY(driver, cuMemcpyDtoDAsync_v2, to_address, from_address, t->byte_size, stream);
  } else {
    CUDA_TRY(driver, cuMemcpyPeerAsync, to_address, to->context, from_address, from->context, t->byte_size, stream);
  }
  return NULL;
}

static TRITONSERVER_Error* run(const gpu* own, const transfer* t) {
  const cuda_driver* driver;
  TRY(cuda_driver_get(&driver));
  visit to = {0};
  visit from = {0};
  TRITONSERVER_Error* error = visit_begin(driver, own, t->to_ordinal, &to);
  if (error == NULL) error = visit_begin(driver, own, t->from_ordinal, &from);
  if (error == NULL) {
    /* A stream belongs to its context, so our own can only be used where our own device takes part. */
    const bool on_own = own != NULL && (to.context == own->context || from.context == own->context);
    const cu_context context = on_own ? own->context : (to.context != NULL ? to.context : from.context);
    const cu_stream stream = on_own ? own->stream : NULL;
    error = cuda_check(driver->cuCtxPushCurrent_v2(context), "cuCtxPushCurrent_v2");
    if (error == NULL) {
      error = queue(driver, t, &to, &from, stream);
      if (error == NULL && (!on_own || to.retained || from.retained)) {
        error = cuda_check(driver->cuStreamSynchronize(stream), "cuStreamSynchronize");
      }
      cu_context popped;
      error_log(cuda_check(driver->cuCtxPopCurrent_v2(&popped), "cuCtxPopCurrent_v2"), "copying");
    }
  }
  visit_end(driver, &from);
  visit_end(driver, &to);
  return error;
}

TRITONSERVER_Error* gpu_copy(const gpu* own, void* to, int64_t to_ordinal, const void* from, int64_t from_ordinal,
                             size_t byte_size) {
  const transfer t = {to, from, to_ordinal, from_ordinal, byte_size};
  return run(own, &t);
}

TRITONSERVER_Error* gpu_zero(const gpu* own, void* to, int64_t ordinal, size_t byte_size) {
  const transfer t = {to, NULL, ordinal, -1, byte_size};
  return run(own, &t);
}
