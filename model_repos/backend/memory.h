/* Memory: places it can be in, copies between them, and scratch space that lives for one execution. */
#ifndef TRITONCAPI_TEST_MEMORY_H
#define TRITONCAPI_TEST_MEMORY_H

#include "gpu.h"
#include "triton_api.h"

typedef struct {
  TRITONSERVER_MemoryType type;
  int64_t id;
} place;

extern const place PLACE_HOST;

/* Whether code that runs in `worker` can work on memory in `where`; pinned memory is ordinary memory to the CPU. */
bool place_reaches(place worker, place where);

/* `own` is the instance's GPU, or NULL. With it, copies may be queued: see gpu_copy. */
TRITONSERVER_Error* memory_copy(const gpu* own, void* to, place to_place, const void* from, place from_place,
                                size_t byte_size);
TRITONSERVER_Error* memory_zero(const gpu* own, void* to, place to_place, size_t byte_size);

/* Memory handed out piece by piece and taken back all at once. The reserve is kept for the life of the instance;
 * what does not fit in it is allocated on the side.
 */
typedef struct scratch_extra scratch_extra;
typedef struct {
  const gpu* device; /* NULL: host memory */
  uintptr_t reserve;
  size_t size;
  size_t used;
  scratch_extra* extra;
} scratch;

TRITONSERVER_Error* scratch_open(scratch* it, const gpu* device, size_t byte_size);
void scratch_close(scratch* it);
TRITONSERVER_Error* scratch_take(scratch* it, size_t byte_size, void** piece);
void scratch_reset(scratch* it);

#endif
