/* A GPU in use by one model instance: the device's primary context, a stream, and the kernels. */
#ifndef TRITONCAPI_TEST_GPU_H
#define TRITONCAPI_TEST_GPU_H

#include "cuda_driver.h"
#include "triton_api.h"

typedef struct {
  int ordinal;
  const cuda_driver* driver;
  cu_device device;
  cu_context context;
  cu_stream stream; /* non-blocking: instances do not wait for each other through the default stream */
  cu_module module;
  cu_function kernels[4]; /* by gpu_kernel */
} gpu;

typedef enum { KERNEL_ADD_S32, KERNEL_SUB_S32, KERNEL_ADD_F32, KERNEL_SUB_F32 } gpu_kernel;

TRITONSERVER_Error* gpu_open(int64_t ordinal, gpu** opened);
/* `keep_context` leaves the context retained: the driver frees all of a context's memory with its last user, which
 * would undo a planted leak.
 */
void gpu_close(gpu* it, bool keep_context);

/* Make the context current on this thread, and put back what was current before. */
TRITONSERVER_Error* gpu_enter(const gpu* it);
void gpu_leave(const gpu* it);

/* These need gpu_enter first. Work is queued on the stream; gpu_wait waits for it and reports its errors. */
TRITONSERVER_Error* gpu_allocate(const gpu* it, size_t byte_size, cu_address* address);
void gpu_release(const gpu* it, cu_address address);
TRITONSERVER_Error* gpu_launch(const gpu* it, gpu_kernel kernel, cu_address result, cu_address left, cu_address right,
                               uint64_t count);
TRITONSERVER_Error* gpu_wait(const gpu* it);

/* Copy between memory of which at least one end is on a GPU; an ordinal of -1 stands for the host. `own` may be
 * NULL, or another device than the ends are on: then the copy is finished on return. Otherwise it is queued.
 */
TRITONSERVER_Error* gpu_copy(const gpu* own, void* to, int64_t to_ordinal, const void* from, int64_t from_ordinal,
                             size_t byte_size);
/* Zero memory on a GPU, finished or queued as above. */
TRITONSERVER_Error* gpu_zero(const gpu* own, void* to, int64_t ordinal, size_t byte_size);

#endif
