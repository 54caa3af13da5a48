/* Outputs: all of a response's in one call from Python. */
#define _GNU_SOURCE
#include "outputs.h"

#include <stdbool.h>
#include <string.h>

/* One output. What is the same for it in each response of its kind stands together, without a byte undefined. */
struct tc_output {
  const void *base;
  void *userp;
  const int64_t *shape;
  const char *name;
  struct tc_output_kind kind;
};

static TRITONSERVER_Error *read_one(TRITONSERVER_InferenceResponse *response, uint32_t index, struct tc_output *row) {
  struct tc_output_kind *kind = &row->kind;
  memset(kind, 0, sizeof *kind);
  TRITONSERVER_Error *error = tc_triton.InferenceResponseOutput(
      response, index, &row->name, &kind->datatype, &row->shape, &kind->dims, &row->base, &kind->byte_size,
      &kind->memory_type, &kind->device, &row->userp);
  if (error) return error;
  if (kind->dims && kind->dims <= TC_DIMS) memcpy(kind->sizes, row->shape, kind->dims * sizeof *row->shape);
  size_t length = strnlen(row->name, TC_NAME);
  if (length < TC_NAME) memcpy(kind->short_name, row->name, length);
  return NULL;
}

/* Fills as many rows as there is room for. Returns how many outputs the response has; -1 when Triton refuses to say. */
int64_t tc_outputs_read(TRITONSERVER_InferenceResponse *response, struct tc_output *rows, uint32_t room) {
  uint32_t count = 0;
  TRITONSERVER_Error *error = tc_triton.InferenceResponseOutputCount(response, &count);
  for (uint32_t i = 0; !error && i < count && i < room; i++) error = read_one(response, i, &rows[i]);
  if (!error) return count;
  tc_triton.ErrorDelete(error);
  return -1;
}

/* The outputs of the next response to a request, which mostly differ from those of the last in their addresses alone. */
void tc_outputs_look(TRITONSERVER_InferenceResponse *response, struct tc_look *look) {
  uint32_t count = 0;
  TRITONSERVER_Error *error = tc_triton.InferenceResponseOutputCount(response, &count);
  bool fits = !error && count <= TC_LOOK, same = fits && count == look->count;
  for (uint32_t i = 0; fits && i < count; i++) {
    struct tc_output row;
    error = read_one(response, i, &row);
    fits = !error && row.kind.short_name[0] && row.kind.dims <= TC_DIMS;
    if (!fits) break;
    look->at[i].base = row.base;
    look->at[i].userp = row.userp;
    same = same && !memcmp(&row.kind, &look->kinds[i], sizeof row.kind);
    if (!same) look->kinds[i] = row.kind;
  }
  if (error) tc_triton.ErrorDelete(error);
  int64_t found = fits ? (int64_t)count : -1;
  if (!(fits ? same : look->count == found)) look->version++;
  look->count = found;
}
