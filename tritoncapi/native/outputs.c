/* Outputs: all of a response's in one call from Python. */
#define _GNU_SOURCE
#include <string.h>

#include "triton.h"

enum { DIMS = 8, NAME = 40 };

/* What is the same for an output of each response of its kind stands together, without a byte undefined: Python knows
 * it again by its bytes. */
struct tc_output {
  const void *base;
  void *userp;
  const int64_t *shape;
  const char *name;
  struct {
    size_t byte_size;
    uint64_t dims;
    int64_t device;
    int32_t datatype, memory_type;
    int64_t sizes[DIMS];   /* the shape, if it fits, else zeros */
    char short_name[NAME]; /* the name, if it fits, else empty */
  } kind;
};

/* Fills as many rows, which are zeros, as there is room for. `*count` is how many outputs the response has. The error is
 * the caller's. */
TRITONSERVER_Error *tc_outputs_read(
    TRITONSERVER_InferenceResponse *response, struct tc_output *rows, uint32_t room, uint32_t *count) {
  *count = 0;
  TRITONSERVER_Error *error = tc_triton.InferenceResponseOutputCount(response, count);
  for (uint32_t i = 0; !error && i < *count && i < room; i++) {
    struct tc_output *row = &rows[i];
    error = tc_triton.InferenceResponseOutput(
        response, i, &row->name, &row->kind.datatype, &row->shape, &row->kind.dims, &row->base, &row->kind.byte_size,
        &row->kind.memory_type, &row->kind.device, &row->userp);
    if (error) break;
    if (row->kind.dims && row->kind.dims <= DIMS)
      memcpy(row->kind.sizes, row->shape, row->kind.dims * sizeof *row->shape);
    size_t length = strnlen(row->name, NAME);
    if (length < NAME) memcpy(row->kind.short_name, row->name, length);
  }
  return error;
}
