/* Outputs: all of a response's in one call from Python. */
#define _GNU_SOURCE
#include <string.h>

#include "triton.h"

enum { DIMS = 8, NAME = 40 };

struct tc_output {
  const void *base;
  void *userp;
  const int64_t *shape;
  const char *name;
  uint64_t dims;
  size_t byte_size;
  int64_t device;
  int datatype, memory_type;
  int64_t sizes[DIMS];   /* the shape, if it fits; the rest undefined */
  char short_name[NAME]; /* the name, if it fits, filled up with zeros; else empty */
};

/* Fills as many rows as there is room for. `*count` is how many outputs the response has. The error is the caller's. */
TRITONSERVER_Error *tc_outputs_read(
    TRITONSERVER_InferenceResponse *response, struct tc_output *rows, uint32_t room, uint32_t *count) {
  *count = 0;
  TRITONSERVER_Error *error = tc_triton.InferenceResponseOutputCount(response, count);
  for (uint32_t i = 0; !error && i < *count && i < room; i++) {
    struct tc_output *row = &rows[i];
    error = tc_triton.InferenceResponseOutput(
        response, i, &row->name, &row->datatype, &row->shape, &row->dims, &row->base, &row->byte_size,
        &row->memory_type, &row->device, &row->userp);
    if (error) break;
    if (row->dims && row->dims <= DIMS) memcpy(row->sizes, row->shape, row->dims * sizeof *row->shape);
    size_t length = strnlen(row->name, NAME);
    memset(row->short_name, 0, sizeof row->short_name);
    if (length < NAME) memcpy(row->short_name, row->name, length);
  }
  return error;
}
