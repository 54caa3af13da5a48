/* The CUDA driver library: opened at run time, so that the backend loads where there is no driver.
 *
 * Handles are declared as what they are in the driver's binary interface. The `_v2` names are the ones with 64-bit
 * sizes and addresses; the plain names exist too and take other types.
 */
#ifndef TRITONCAPI_TEST_CUDA_DRIVER_H
#define TRITONCAPI_TEST_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "triton_api.h"

typedef int cu_result; /* 0 is success */
typedef int cu_device;
typedef unsigned long long cu_address;
typedef struct cu_context_object* cu_context;
typedef struct cu_module_object* cu_module;
typedef struct cu_function_object* cu_function;
typedef struct cu_stream_object* cu_stream;

enum { CU_STREAM_NON_BLOCKING_FLAG = 1 };

/* X(member and symbol, parameters) */
#define CUDA_FUNCTIONS(X)                                                                                     \
  X(cuInit, (unsigned flags))                                                                                 \
  X(cuGetErrorName, (cu_result result, const char** text))                                                    \
  X(cuGetErrorString, (cu_result result, const char** text))                                                  \
  X(cuDeviceGet, (cu_device * device, int ordinal))                                                           \
  X(cuDeviceGetCount, (int* count))                                                                           \
  X(cuDevicePrimaryCtxRetain, (cu_context * context, cu_device device))                                       \
  X(cuDevicePrimaryCtxRelease_v2, (cu_device device))                                                         \
  X(cuCtxPushCurrent_v2, (cu_context context))                                                                \
  X(cuCtxPopCurrent_v2, (cu_context * context))                                                               \
  X(cuModuleLoadData, (cu_module * module, const void* image))                                                \
  X(cuModuleGetFunction, (cu_function * function, cu_module module, const char* name))                        \
  X(cuModuleUnload, (cu_module module))                                                                       \
  X(cuStreamCreate, (cu_stream * stream, unsigned flags))                                                     \
  X(cuStreamSynchronize, (cu_stream stream))                                                                  \
  X(cuStreamDestroy_v2, (cu_stream stream))                                                                   \
  X(cuMemAlloc_v2, (cu_address * address, size_t byte_size))                                                  \
  X(cuMemFree_v2, (cu_address address))                                                                       \
  X(cuMemsetD8Async, (cu_address address, unsigned char value, size_t count, cu_stream stream))               \
  X(cuMemcpyHtoDAsync_v2, (cu_address to, const void* from, size_t byte_size, cu_stream stream))              \
  X(cuMemcpyDtoHAsync_v2, (void* to, cu_address from, size_t byte_size, cu_stream stream))                    \
  X(cuMemcpyDtoDAsync_v2, (cu_address to, cu_address from, size_t byte_size, cu_stream stream))               \
  X(cuMemcpyPeerAsync, (cu_address to, cu_context to_context, cu_address from, cu_context from_context,       \
                        size_t byte_size, cu_stream stream))                                                  \
  X(cuLaunchKernel, (cu_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, \
                     unsigned block_y, unsigned block_z, unsigned shared_bytes, cu_stream stream, void** parameters, \
                     void** extra))

typedef struct {
#define CUDA_MEMBER(name, parameters) cu_result(*name) parameters;
  CUDA_FUNCTIONS(CUDA_MEMBER)
#undef CUDA_MEMBER
} cuda_driver;

/* The driver's functions, loaded and initialised by the first call in the process. */
TRITONSERVER_Error* cuda_driver_get(const cuda_driver** driver);

/* NULL for success, else an error with the driver's name for `result` and the call that gave it. */
TRITONSERVER_Error* cuda_check(cu_result result, const char* call);

#define CUDA_TRY(driver, function, ...) TRY(cuda_check((driver)->function(__VA_ARGS__), #function))

#endif
