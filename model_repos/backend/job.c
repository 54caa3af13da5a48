/* A job: one request of an execution, from its arrival to its release. */
#include "job.h"

#include <string.h>

#include "errors.h"
#include "operations.h"
#include "response.h"
#include "tensors.h"
#include "timing.h"

static TRITONSERVER_Error* leak(const instance* owner) {
  const faults* planted = &owner->config->faults;
  if (planted->on[FAULT_LEAK_HOST]) TRY(fault_leak_host(planted->value[FAULT_LEAK_HOST]));
  if (planted->on[FAULT_LEAK_GPU]) TRY(instance_leak_gpu(owner, planted->value[FAULT_LEAK_GPU]));
  if (planted->on[FAULT_LEAK_FD]) TRY(fault_leak_descriptor());
  return NULL;
}

static TRITONSERVER_Error* read_batch(job* it) {
  it->batch = 1;
  uint32_t inputs;
  TRY(TRITONBACKEND_RequestInputCount(it->request, &inputs));
  if (!it->instance->config->batching || inputs == 0) return NULL;
  TRITONBACKEND_Input* first;
  const int64_t* shape;
  uint32_t dims;
  TRY(TRITONBACKEND_RequestInputByIndex(it->request, 0, &first));
  TRY(TRITONBACKEND_InputProperties(first, NULL, NULL, &shape, &dims, NULL, NULL));
  if (dims > 0 && shape[0] > 0) it->batch = (uint64_t)shape[0];
  return NULL;
}

TRITONSERVER_Error* job_begin(job* it, instance* owner, TRITONBACKEND_Request* request) {
  memset(it, 0, sizeof *it);
  it->instance = owner;
  it->request = request;
  it->computed = PLACE_HOST;
  if (owner->config->decoupled) TRY(TRITONBACKEND_ResponseFactoryNew(&it->factory, request));
  if (owner->config->operation->answer == NULL) TRY(response_new(it, &it->response));
  TRY(read_batch(it));
  return leak(owner);
}

TRITONSERVER_Error* job_list_outputs(job* it) {
  uint32_t count;
  TRY(TRITONBACKEND_RequestOutputCount(it->request, &count));
  void* memory;
  TRY(scratch_take(&it->instance->host_scratch, count * sizeof *it->outputs, &memory));
  it->outputs = memory;
  memset(it->outputs, 0, count * sizeof *it->outputs);
  if (it->instance->config->faults.on[FAULT_DROP_OUTPUT] && count > 0) count--;
  for (uint32_t i = 0; i < count; i++) {
    TRY(TRITONBACKEND_RequestOutputName(it->request, i, &it->outputs[i].name));
    it->outputs[i].data_place = it->computed;
  }
  it->output_count = count;
  return NULL;
}

bool job_cancelled(const job* it) {
  bool request = false;
  bool factory = false;
  error_log(TRITONBACKEND_RequestIsCancelled(it->request, &request), "asking whether a request is cancelled");
  if (it->factory != NULL) {
    error_log(TRITONBACKEND_ResponseFactoryIsCancelled(it->factory, &factory), "asking whether a request is cancelled");
  }
  return request || factory;
}

/* An error response, or nothing where the responses have gone out and only the final flag is missing. */
static void answer_rest(job* it) {
  if (it->error != NULL && it->response == NULL) {
    error_log(response_new(it, &it->response), "making an error response; the request stays unanswered");
  }
  if (it->response != NULL) {
    response_send(it, it->response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, it->error);
    it->response = NULL;
  } else if (it->error == NULL && it->factory != NULL) {
    response_send_final_flag(it);
  }
}

void job_answer(job* it) {
  const faults* planted = &it->instance->config->faults;
  it->failed = it->error != NULL;
  TRITONBACKEND_Response* second = NULL;
  if (planted->on[FAULT_ANSWER_TWICE]) error_log(response_new(it, &second), "planting a second answer");
  const uint64_t start = now_ns();
  const bool has_outputs = it->response != NULL && it->error == NULL;
  if (planted->on[FAULT_NO_ANSWER]) {
    if (it->response != NULL) error_log(TRITONBACKEND_ResponseDelete(it->response), "planting no answer");
    it->response = NULL;
  } else {
    answer_rest(it);
    if (it->factory != NULL) response_report(it, start, has_outputs ? start : 0, it->error);
  }
  if (second != NULL) response_send(it, second, TRITONSERVER_RESPONSE_COMPLETE_FINAL, NULL);
  error_drop(it->error);
  it->error = NULL;
  if (it->factory != NULL) error_log(TRITONBACKEND_ResponseFactoryDelete(it->factory), "deleting a response factory");
  it->factory = NULL;
}

void job_release(job* it) {
  it->finished = true;
  if (it->instance->config->faults.on[FAULT_NEVER_RELEASE]) return;
  error_log(TRITONBACKEND_RequestRelease(it->request, TRITONSERVER_REQUEST_RELEASE_ALL), "releasing a request");
}
