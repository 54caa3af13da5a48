/* Execution: what an instance does with the requests that it is handed at one time.
 *
 * Each step is taken for all requests before the next one begins, so that the statistics of a batch, which has one
 * set of times, are true of every request in it.
 */
#include "execute.h"

#include <stdlib.h>

#include "errors.h"
#include "job.h"
#include "operations.h"
#include "tensors.h"
#include "timing.h"

typedef struct {
  instance* owner;
  const gpu* gpu; /* whose context is current; NULL on a CPU instance */
  job* jobs;
  uint32_t count;
  uint64_t exec_start, compute_start, compute_end, exec_end;
} execution;

static bool going(const job* one) { return !one->finished && one->error == NULL; }

static void each(execution* it, TRITONSERVER_Error* (*step)(job* one)) {
  for (uint32_t i = 0; i < it->count; i++) {
    if (going(&it->jobs[i])) it->jobs[i].error = step(&it->jobs[i]);
  }
}

/* Takes `error`, and gives every request that had none an error of its own with the same text. */
static void fail_all(execution* it, TRITONSERVER_Error* error) {
  if (error == NULL) return;
  for (uint32_t i = 0; i < it->count; i++) {
    if (!going(&it->jobs[i])) continue;
    it->jobs[i].error = error_new(TRITONSERVER_ERROR_INTERNAL, "%s", TRITONSERVER_ErrorMessage(error));
  }
  TRITONSERVER_ErrorDelete(error);
}

static void wait_for_gpu(execution* it) {
  if (it->gpu != NULL) fail_all(it, gpu_wait(it->gpu));
}

static void begin(execution* it, TRITONBACKEND_Request** requests) {
  const faults* planted = &it->owner->config->faults;
  for (uint32_t i = 0; i < it->count; i++) {
    it->jobs[i].error = job_begin(&it->jobs[i], it->owner, requests[i]);
    const bool chosen = planted->on[FAULT_FAIL_REQUEST] && (i + 1) % planted->value[FAULT_FAIL_REQUEST] == 0;
    if (chosen && it->jobs[i].error == NULL) it->jobs[i].error = fault_error(FAULT_FAIL_REQUEST);
  }
}

static void report(const execution* it, const job* one) {
  error_log(TRITONBACKEND_ModelInstanceReportStatistics(it->owner->handle, one->request, !one->failed, it->exec_start,
                                                        it->compute_start, it->compute_end, it->exec_end),
            "reporting the statistics of a request");
}

/* Answer cancelled requests at once, not with the rest of their batch. True when none is left to wait for. */
static bool answer_cancelled(void* argument) {
  execution* it = argument;
  bool left = false;
  for (uint32_t i = 0; i < it->count; i++) {
    job* one = &it->jobs[i];
    if (!going(one)) continue;
    if (!job_cancelled(one)) {
      left = true;
      continue;
    }
    one->error = error_new(TRITONSERVER_ERROR_CANCELLED, "cancelled during execution");
    job_answer(one);
    it->compute_end = it->exec_end = now_ns();
    report(it, one);
    job_release(one);
  }
  return !left;
}

static TRITONSERVER_Error* prepare(job* one) { return one->instance->config->operation->prepare(one); }

static TRITONSERVER_Error* compute(job* one) {
  const operation* chosen = one->instance->config->operation;
  return chosen->compute == NULL ? NULL : chosen->compute(one);
}

static TRITONSERVER_Error* deliver(job* one) {
  if (one->instance->config->operation->answer != NULL) return NULL;
  for (uint32_t i = 0; i < one->output_count; i++) {
    output* out = &one->outputs[i];
    if (!out->opened) TRY(output_open(one, one->response, out));
    TRY(output_deliver(one, out));
  }
  return NULL;
}

static TRITONSERVER_Error* answer(job* one) {
  const operation* chosen = one->instance->config->operation;
  return chosen->answer == NULL ? NULL : chosen->answer(one);
}

static void run(execution* it) {
  each(it, prepare);
  wait_for_gpu(it);
  it->compute_start = now_ns();
  const uint64_t delay = it->owner->config->execute_delay_ms;
  if (delay > 0) (void)sleep_ms(delay, answer_cancelled, it);
  each(it, compute);
  wait_for_gpu(it);
  it->compute_end = now_ns();
  each(it, deliver);
  wait_for_gpu(it);
  each(it, answer);
}

static void finish(execution* it) {
  uint64_t batch = 0;
  for (uint32_t i = 0; i < it->count; i++) {
    batch += it->jobs[i].batch;
    if (!it->jobs[i].finished) job_answer(&it->jobs[i]);
  }
  it->exec_end = now_ns();
  for (uint32_t i = 0; i < it->count; i++) {
    if (!it->jobs[i].finished) report(it, &it->jobs[i]);
  }
  error_log(TRITONBACKEND_ModelInstanceReportBatchStatistics(it->owner->handle, batch, it->exec_start,
                                                             it->compute_start, it->compute_end, it->exec_end),
            "reporting the statistics of a batch");
  for (uint32_t i = 0; i < it->count; i++) {
    if (!it->jobs[i].finished) job_release(&it->jobs[i]);
  }
}

TRITONSERVER_Error* execute(instance* owner, TRITONBACKEND_Request** requests, uint32_t count) {
  const faults* planted = &owner->config->faults;
  if (planted->on[FAULT_FAIL_EXECUTE]) return fault_error(FAULT_FAIL_EXECUTE);
  if (planted->on[FAULT_CRASH]) fault_crash();
  if (planted->on[FAULT_ABORT]) abort();
  if (planted->on[FAULT_HANG]) fault_hang();

  execution it = {.owner = owner, .gpu = instance_gpu(owner), .count = count, .exec_start = now_ns()};
  it.jobs = calloc(count, sizeof *it.jobs);
  if (it.jobs == NULL) return error_no_memory(count * sizeof *it.jobs);
  if (it.gpu != NULL) {
    TRITONSERVER_Error* error = gpu_enter(it.gpu);
    if (error != NULL) {
      free(it.jobs);
      return error;
    }
  }
  begin(&it, requests);
  run(&it);
  finish(&it);
  scratch_reset(&owner->host_scratch);
  scratch_reset(&owner->gpu_scratch);
  if (it.gpu != NULL) gpu_leave(it.gpu);
  free(it.jobs);
  return NULL;
}
