/* The operation repeat, for decoupled models: one response per element of IN, each after the DELAY given for it. */
#include <string.h>

#include "errors.h"
#include "operations.h"
#include "response.h"
#include "tensors.h"
#include "timing.h"

typedef struct {
  input values;
  input delays; /* without data where the request has no DELAY */
  uint64_t count;
  int32_t value; /* the response at hand; outputs are copied from here */
  uint32_t index;
} series;

static TRITONSERVER_Error* read_values(job* work, series* it) {
  TRY(input_find(work, "IN", &it->values));
  if (it->values.datatype != TRITONSERVER_TYPE_INT32) {
    return error_new(TRITONSERVER_ERROR_UNSUPPORTED, "repeat takes an IN of INT32, not datatype %d",
                     (int)it->values.datatype);
  }
  TRY(input_check_elements(&it->values, 4, &it->count));
  if (work->instance->config->batching && it->values.dims > 0 && it->values.shape[0] != 1) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "repeat takes requests of batch size 1, not %lld",
                     (long long)it->values.shape[0]);
  }
  return input_gather(work, &it->values, PLACE_HOST);
}

static TRITONSERVER_Error* read_delays(job* work, series* it) {
  TRITONBACKEND_Input* handle;
  TRITONSERVER_Error* error = TRITONBACKEND_RequestInput(work->request, "DELAY", &handle);
  if (error != NULL) {
    error_drop(error);
    return NULL;
  }
  TRY(input_find(work, "DELAY", &it->delays));
  uint64_t count;
  TRY(input_check_elements(&it->delays, 4, &count));
  if (it->delays.datatype != TRITONSERVER_TYPE_UINT32 || count != it->count) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "repeat needs a DELAY of UINT32 with as many elements as IN");
  }
  return input_gather(work, &it->delays, PLACE_HOST);
}

static TRITONSERVER_Error* prepare(job* work) {
  void* memory;
  TRY(scratch_take(&work->instance->host_scratch, sizeof(series), &memory));
  series* it = work->state = memory;
  memset(it, 0, sizeof *it);
  TRY(read_values(work, it));
  TRY(read_delays(work, it));
  TRY(job_list_outputs(work));
  for (uint32_t i = 0; i < work->output_count; i++) {
    static const int64_t one[] = {1, 1};
    output* out = &work->outputs[i];
    const bool is_value = strcmp(out->name, "OUT") == 0;
    if (!is_value && strcmp(out->name, "IDX") != 0) {
      return error_new(TRITONSERVER_ERROR_INVALID_ARG, "repeat has OUT and IDX but no '%s'", out->name);
    }
    out->datatype = is_value ? TRITONSERVER_TYPE_INT32 : TRITONSERVER_TYPE_UINT32;
    out->shape = one;
    out->dims = work->instance->config->batching ? 2 : 1;
    out->byte_size = 4;
    out->data = is_value ? (void*)&it->value : (void*)&it->index;
  }
  return NULL;
}

static bool stop(void* argument) { return job_cancelled(argument); }

static TRITONSERVER_Error* fill(job* work, TRITONBACKEND_Response* response) {
  for (uint32_t i = 0; i < work->output_count; i++) {
    TRY(output_open(work, response, &work->outputs[i]));
    TRY(output_deliver(work, &work->outputs[i]));
  }
  const gpu* device = instance_gpu(work->instance);
  return device == NULL ? NULL : gpu_wait(device);
}

static TRITONSERVER_Error* send_one(job* work, const series* it) {
  const uint64_t start = now_ns();
  const uint32_t* delays = it->delays.data;
  if (!sleep_ms(delays == NULL ? 0 : delays[it->index], stop, work)) {
    return error_new(TRITONSERVER_ERROR_CANCELLED, "cancelled before response %u", it->index);
  }
  const uint64_t output_start = now_ns();
  TRITONBACKEND_Response* response;
  TRY(response_new(work, &response));
  TRITONSERVER_Error* error = fill(work, response);
  if (error != NULL) {
    error_log(TRITONBACKEND_ResponseDelete(response), "deleting a response");
    return error;
  }
  response_send(work, response, 0, NULL);
  response_report(work, start, output_start, NULL);
  return NULL;
}

static TRITONSERVER_Error* answer(job* work) {
  series* it = work->state;
  if (work->instance->config->faults.on[FAULT_NO_ANSWER]) return NULL;
  for (uint64_t i = 0; i < it->count; i++) {
    it->index = (uint32_t)i;
    memcpy(&it->value, (const char*)it->values.data + 4 * i, sizeof it->value);
    TRY(send_one(work, it));
  }
  return NULL;
}

const operation operation_repeat = {"repeat", prepare, NULL, answer};
