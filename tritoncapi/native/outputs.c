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
  struct tc_output_kind {
    size_t byte_size;
    uint64_t dims;
    int64_t device;
    int32_t datatype, memory_type;
    int64_t sizes[DIMS];   /* the shape, if it fits, else zeros */
    char short_name[NAME]; /* the name, if it fits, else empty */
  } kind;
};

/* Fills as many rows as there is room for. Returns how many outputs the response has; -1 when Triton refuses to say. */
int64_t tc_outputs_read(TRITONSERVER_InferenceResponse *response, struct tc_output *rows, uint32_t room) {
  uint32_t count = 0;
  TRITONSERVER_Error *error = tc_triton.InferenceResponseOutputCount(response, &count);
  for (uint32_t i = 0; !error && i < count && i < room; i++) {
    struct tc_output *row = &rows[i];
    struct tc_output_kind *kind = &row->kind;
    memset(kind, 0, sizeof *kind);
    error = tc_triton.InferenceResponseOutput(
        response, i, &row->name, &kind->datatype, &row->shape, &kind->dims, &row->base, &kind->byte_size,
        &kind->memory_type, &kind->device, &row->userp);
    if (error) break;
    if (kind->dims && kind->dims <= DIMS) memcpy(kind->sizes, row->shape, kind->dims * sizeof *row->shape);
    size_t length = strnlen(row->name, NAME);
    if (length < NAME) memcpy(kind->short_name, row->name, length);
  }
  if (!error) return count;
  tc_triton.ErrorDelete(error);
  return -1;
}
