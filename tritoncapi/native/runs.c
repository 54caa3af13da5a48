/* Runs: one request, or many, in one call from Python: submitted, waited for, answered. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "calls.h"

struct tc_run {
  TRITONSERVER_Server *server;
  TRITONSERVER_InferenceRequest *request;
  TRITONSERVER_ResponseAllocator *allocator;
  void *allocator_userp;
  TRITONSERVER_InferenceTrace *trace;
  int64_t timeout_ns;
  /* Results */
  uint64_t key; /* of the call while it is out, and when this is not the whole answer: the caller goes on; else 0 */
  struct tc_answer answer;
};

static TRITONSERVER_Error *begin_run(struct tc_run *run, struct tc_inbox *inbox, struct tc_call **call) {
  run->key = 0;
  run->answer.response = NULL;
  TRITONSERVER_Error *error = tc_call_begin(
      run->server, run->request, run->allocator, run->allocator_userp, run->trace, inbox, call);
  if (!error) __atomic_store_n(&run->key, (*call)->key, __ATOMIC_RELEASE); /* other threads may cancel it from now on */
  return error;
}

static void end_run(struct tc_run *run, struct tc_call *call, int64_t timeout_ns) {
  if (!tc_call_take_answer(call, timeout_ns, &run->answer)) {
    tc_call_put_back(call);
    return;
  }
  __atomic_store_n(&run->key, 0, __ATOMIC_RELEASE);
  tc_call_finish(call);
}

/* Returns what Triton refused it with, or NULL. When all has come in time, and one response was in it, then that is the
 * caller's and the call is closed. */
TRITONSERVER_Error *tc_call_run(struct tc_run *run) {
  struct tc_call *call;
  TRITONSERVER_Error *error = begin_run(run, NULL, &call);
  if (!error) end_run(run, call, run->timeout_ns);
  return error;
}

/* The same for many: all are submitted before one is waited for. Returns what Triton refused one with; the later ones
 * are then not submitted, those before it are answered as usual. `*submitted` says how many, `*unfinished` how many of
 * them go on. */
TRITONSERVER_Error *tc_call_run_many(
    struct tc_run **runs, struct tc_answer *answers, size_t count, int64_t timeout_ns, size_t *submitted,
    size_t *unfinished) {
  struct tc_call **calls = malloc((count ? count : 1) * sizeof *calls);
  *submitted = *unfinished = 0;
  if (!calls) return tc_triton.ErrorNew(TC_ERROR_UNAVAILABLE, "out of memory for calls");
  int64_t deadline = tc_deadline_after(timeout_ns);
  TRITONSERVER_Error *error = NULL;
  size_t begun = 0;
  while (begun < count && !(error = begin_run(runs[begun], NULL, &calls[begun]))) begun++;
  /* The last one first: when it is done the others mostly are, so there is one wake-up, not one for each. */
  for (size_t i = begun; i-- > 0;) {
    int64_t left = deadline < 0 ? -1 : deadline - tc_now();
    struct tc_run *run = runs[i];
    end_run(run, calls[i], deadline >= 0 && left < 0 ? 0 : left);
    answers[i] = run->answer;
    run->answer.response = NULL;
    *unfinished += run->key != 0;
  }
  free(calls);
  *submitted = begun;
  return error;
}

/* Submits only; the key, which stays in the run, goes to the inbox when all has come. */
TRITONSERVER_Error *tc_call_post(struct tc_run *run, struct tc_inbox *inbox) {
  struct tc_call *call;
  TRITONSERVER_Error *error = begin_run(run, inbox, &call);
  if (!error) tc_call_put_back(call);
  return error;
}

/* Takes up to `limit` keys out of an inbox. An answer with a response is whole, and its call closed; without one the
 * call is as it was, or was closed before. Returns how many. */
size_t tc_inbox_collect(struct tc_inbox *inbox, uint64_t *keys, struct tc_answer *answers, size_t limit) {
  size_t count = tc_inbox_take(inbox, keys, limit);
  for (size_t i = 0; i < count; i++) {
    struct tc_run run = {.answer = {.response = NULL}};
    struct tc_call *call = tc_call_find(keys[i]);
    if (call) end_run(&run, call, 0);
    answers[i] = run.answer;
  }
  return count;
}

/* Deletes the responses that are still there; the first error is the caller's. */
TRITONSERVER_Error *tc_answers_delete(struct tc_answer *answers, size_t count) {
  TRITONSERVER_Error *first = NULL;
  for (size_t i = 0; i < count; i++) {
    TRITONSERVER_Error *error = answers[i].response ? tc_triton.InferenceResponseDelete(answers[i].response) : NULL;
    answers[i].response = NULL;
    if (error && first) tc_triton.ErrorDelete(error);
    if (!first) first = error;
  }
  return first;
}

/* For responses on the CPU: quick enough to keep the interpreter lock. The error is the caller's. */
TRITONSERVER_Error *tc_response_delete(TRITONSERVER_InferenceResponse *response) {
  return tc_triton.InferenceResponseDelete(response);
}
