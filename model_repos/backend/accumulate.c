/* The operation accumulate: per sequence, the sum of all INPUT elements so far, in every element of OUTPUT. */
#include <stdio.h>
#include <string.h>

#include "errors.h"
#include "operations.h"
#include "tensors.h"

typedef struct {
  input values;
  uint64_t count;
  bool start, end, ready;
  char id[160]; /* correlation ID; empty for a request that stands for an empty slot */
} step;

/* Absent inputs are no error: which controls there are is the model's choice. */
static bool find_control(job* work, const char* name, input* found) {
  TRITONSERVER_Error* error = input_find(work, name, found);
  const bool has = error == NULL;
  error_drop(error);
  return has;
}

static TRITONSERVER_Error* read_control(job* work, const char* name, bool* value) {
  input control;
  if (!find_control(work, name, &control)) return NULL;
  TRY(input_gather(work, &control, PLACE_HOST));
  if (instance_gpu(work->instance) != NULL) TRY(gpu_wait(instance_gpu(work->instance)));
  const size_t size = control.datatype == TRITONSERVER_TYPE_BOOL ? 1 : 4;
  if (control.byte_size < size) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "control input '%s' is empty", name);
  }
  unsigned char bytes[4] = {0};
  memcpy(bytes, control.data, size);
  float real;
  memcpy(&real, bytes, sizeof real);
  switch (control.datatype) {
    case TRITONSERVER_TYPE_FP32: *value = real != 0.0f; return NULL;
    case TRITONSERVER_TYPE_INT32:
    case TRITONSERVER_TYPE_BOOL: *value = (bytes[0] | bytes[1] | bytes[2] | bytes[3]) != 0; return NULL;
    default: return error_new(TRITONSERVER_ERROR_INVALID_ARG, "control input '%s' must be INT32, FP32 or BOOL", name);
  }
}

static void number_id(step* it, uint64_t number) {
  if (number != 0) snprintf(it->id, sizeof it->id, "#%llu", (unsigned long long)number);
}

static TRITONSERVER_Error* text_id(step* it, const char* text, size_t length) {
  if (length == 0) return NULL;
  if (length > sizeof it->id - 2 || memchr(text, '\0', length) != NULL) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "a correlation ID of %zu bytes cannot be kept", length);
  }
  it->id[0] = '=';
  memcpy(it->id + 1, text, length);
  it->id[1 + length] = '\0';
  return NULL;
}

static TRITONSERVER_Error* read_id_tensor(job* work, input* control, step* it) {
  TRY(input_gather(work, control, PLACE_HOST));
  if (instance_gpu(work->instance) != NULL) TRY(gpu_wait(instance_gpu(work->instance)));
  uint64_t wide = 0;
  uint32_t narrow = 0;
  switch (control->datatype) {
    case TRITONSERVER_TYPE_UINT64:
    case TRITONSERVER_TYPE_INT64:
      if (control->byte_size < sizeof wide) break;
      memcpy(&wide, control->data, sizeof wide);
      number_id(it, wide);
      return NULL;
    case TRITONSERVER_TYPE_UINT32:
    case TRITONSERVER_TYPE_INT32:
      if (control->byte_size < sizeof narrow) break;
      memcpy(&narrow, control->data, sizeof narrow);
      number_id(it, narrow);
      return NULL;
    case TRITONSERVER_TYPE_BYTES:
      if (control->byte_size < sizeof narrow) return NULL;
      memcpy(&narrow, control->data, sizeof narrow);
      if (narrow > control->byte_size - sizeof narrow) break;
      return text_id(it, (const char*)control->data + sizeof narrow, narrow);
    default: break;
  }
  return error_new(TRITONSERVER_ERROR_INVALID_ARG, "the control input CORRID holds no correlation ID");
}

static TRITONSERVER_Error* read_id(job* work, step* it) {
  input control;
  if (find_control(work, "CORRID", &control)) return read_id_tensor(work, &control, it);
  uint64_t number;
  TRITONSERVER_Error* error = TRITONBACKEND_RequestCorrelationId(work->request, &number);
  if (error == NULL) {
    number_id(it, number);
    return NULL;
  }
  error_drop(error); /* the ID is a string, then */
  const char* text;
  TRY(TRITONBACKEND_RequestCorrelationIdString(work->request, &text));
  return text_id(it, text, strlen(text));
}

static TRITONSERVER_Error* prepare(job* work) {
  void* memory;
  TRY(scratch_take(&work->instance->host_scratch, sizeof(step), &memory));
  step* it = work->state = memory;
  memset(it, 0, sizeof *it);
  TRY(input_find(work, "INPUT", &it->values));
  if (it->values.datatype != TRITONSERVER_TYPE_INT32) {
    return error_new(TRITONSERVER_ERROR_UNSUPPORTED, "accumulate takes INT32, not datatype %d",
                     (int)it->values.datatype);
  }
  TRY(input_check_elements(&it->values, 4, &it->count));
  TRY(input_gather(work, &it->values, PLACE_HOST));

  uint32_t flags;
  TRY(TRITONBACKEND_RequestFlags(work->request, &flags));
  it->start = (flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_START) != 0;
  it->end = (flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_END) != 0;
  it->ready = true;
  TRY(read_control(work, "START", &it->start));
  TRY(read_control(work, "END", &it->end));
  TRY(read_control(work, "READY", &it->ready));
  TRY(read_id(work, it));

  TRY(job_list_outputs(work));
  for (uint32_t i = 0; i < work->output_count; i++) {
    output* out = &work->outputs[i];
    if (strcmp(out->name, "OUTPUT") != 0) {
      return error_new(TRITONSERVER_ERROR_INVALID_ARG, "accumulate has OUTPUT but no '%s'", out->name);
    }
    out->datatype = it->values.datatype;
    out->shape = it->values.shape;
    out->dims = it->values.dims;
    out->byte_size = it->values.byte_size;
    TRY(output_open(work, work->response, out));
  }
  return NULL;
}

static int32_t add(int32_t accumulator, const step* it) {
  const uint32_t* values = it->values.data;
  uint32_t sum = (uint32_t)accumulator; /* unsigned: overflow wraps */
  for (uint64_t i = 0; i < it->count; i++) sum += values[i];
  return (int32_t)sum;
}

static TRITONSERVER_Error* advance(sequences* open, const step* it, int32_t* result) {
  *result = 0;
  if (it->id[0] == '\0') {
    if (it->ready) *result = add(0, it);
    return NULL;
  }
  int32_t* accumulator = sequences_find(open, it->id);
  if (!it->ready) {
    if (accumulator != NULL) *result = *accumulator;
    return NULL;
  }
  if (it->start) {
    TRY(sequences_start(open, it->id, &accumulator));
    *accumulator = 0;
  }
  if (accumulator == NULL) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG,
                     "this instance has no open sequence '%s', and the request does not start it", it->id + 1);
  }
  *accumulator = add(*accumulator, it);
  *result = *accumulator;
  if (it->end) sequences_end(open, it->id);
  return NULL;
}

static TRITONSERVER_Error* compute(job* work) {
  const step* it = work->state;
  int32_t result;
  TRY(advance(&work->instance->sequences, it, &result));
  for (uint32_t i = 0; i < work->output_count; i++) {
    int32_t* to = work->outputs[i].data;
    for (uint64_t k = 0; k < it->count; k++) to[k] = result;
  }
  return NULL;
}

const operation operation_accumulate = {"accumulate", prepare, compute, NULL};
