/* The operation identity: each output is a copy of its input, of any datatype and size, empty ones included. */
#include <string.h>

#include "errors.h"
#include "operations.h"
#include "tensors.h"

/* The input that an output copies: "OUTPUTx" belongs to "INPUTx"; a lone input belongs to a lone output. NULL where
 * the model has none.
 */
static const char* input_of(const config* model, const char* output_name) {
  if (model->input_count == 1 && model->output_count == 1) return model->inputs[0];
  static const char output_prefix[] = "OUTPUT";
  static const char input_prefix[] = "INPUT";
  if (strncmp(output_name, output_prefix, strlen(output_prefix)) != 0) return NULL;
  const char* tail = output_name + strlen(output_prefix);
  for (size_t i = 0; i < model->input_count; i++) {
    const char* name = model->inputs[i];
    if (strncmp(name, input_prefix, strlen(input_prefix)) == 0 && strcmp(name + strlen(input_prefix), tail) == 0) {
      return name;
    }
  }
  return NULL;
}

static bool request_has(const job* work, const char* name) {
  TRITONBACKEND_Input* handle;
  TRITONSERVER_Error* error = TRITONBACKEND_RequestInput(work->request, name, &handle);
  const bool has = error == NULL;
  error_drop(error);
  return has;
}

static TRITONSERVER_Error* prepare(job* work) {
  work->computed = work->instance->place; /* a GPU instance takes the data there and answers from there */
  TRY(job_list_outputs(work));
  uint32_t kept = 0;
  for (uint32_t i = 0; i < work->output_count; i++) {
    output out = work->outputs[i];
    const char* name = input_of(work->instance->config, out.name);
    if (name == NULL) {
      return error_new(TRITONSERVER_ERROR_INVALID_ARG, "identity finds no input that goes with output '%s'", out.name);
    }
    if (!request_has(work, name)) continue; /* an optional input that was left out has no output */
    input in;
    TRY(input_find(work, name, &in));
    TRY(input_gather(work, &in, work->computed));
    out.datatype = in.datatype;
    out.shape = in.shape;
    out.dims = in.dims;
    out.byte_size = in.byte_size;
    out.data = (void*)(uintptr_t)in.data; /* only read: an output that has data is copied from it */
    work->outputs[kept++] = out;
  }
  work->output_count = kept;
  return NULL;
}

const operation operation_identity = {"identity", prepare, NULL, NULL};
