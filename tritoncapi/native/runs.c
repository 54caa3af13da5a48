/* Runs: one request in one call from Python, submitted, waited for, answered; or posted, its answer for an inbox. */
#define _GNU_SOURCE
#include "runs.h"
#include "turn.h"

static TRITONSERVER_Error *begin_run(struct tc_run *run, struct tc_inbox *inbox, struct tc_call *call) {
  run->answer.response = NULL;
  uint64_t key;
  TRITONSERVER_Error *error = tc_call_begin(
      call, run->server, run->request, run->allocator, run->allocator_userp, run->trace, inbox,
      tc_run_take_aside(run, NULL), &key);
  tc_run_set_key(run, key); /* other threads may cancel it from now on */
  return error;
}

static TRITONSERVER_Error *run_once(struct tc_run *run) {
  struct tc_call *call;
  run->key = 0;
  if (!tc_calls_reserve(&call, 1)) return tc_calls_exhausted();
  TRITONSERVER_Error *error = begin_run(run, NULL, call);
  if (!error && !tc_call_await_answer(call, run->key, run->timeout_ns, &run->answer)) return NULL;
  if (!error && run->look && !run->answer.failed) tc_outputs_look(run->answer.response, run->look);
  tc_run_set_key(run, 0);
  tc_calls_put_back(&call, 1);
  return error;
}

/* Returns what Triton refused it with, or NULL. When all has come in time, and one response was in it, then that is the
 * caller's and the call is closed. */
TRITONSERVER_Error *tc_call_run(struct tc_run *run) {
  tc_turn_end();
  TRITONSERVER_Error *error = run_once(run);
  tc_turn_begin();
  return error;
}

/* Submits only; the key, which stays in the run, goes to the inbox when all has come. */
static TRITONSERVER_Error *post(struct tc_run *run, struct tc_inbox *inbox) {
  struct tc_call *call;
  run->key = 0;
  if (!tc_calls_reserve(&call, 1)) return tc_calls_exhausted();
  TRITONSERVER_Error *error = begin_run(run, inbox, call);
  if (error) tc_calls_put_back(&call, 1);
  return error;
}

/* Submits them all, whatever becomes of each. `keys[i]` is its call's, or 0; `errors[i]` is then what Triton refused it
 * with, else NULL. Returns how many it refused. */
size_t tc_calls_post(
    struct tc_run **runs, uint64_t *keys, TRITONSERVER_Error **errors, size_t count, struct tc_inbox *inbox) {
  size_t refused = 0;
  for (size_t i = 0; i < count; i++) {
    errors[i] = post(runs[i], inbox);
    keys[i] = runs[i]->key;
    tc_run_set_key(runs[i], 0);
    refused += errors[i] != NULL;
  }
  return refused;
}

/* Takes up to `limit` keys out of an inbox. An answer with a response is whole, and its call closed; without one the
 * call is as it was, or was closed before. Returns how many. */
size_t tc_inbox_collect(struct tc_inbox *inbox, uint64_t *keys, struct tc_answer *answers, size_t limit) {
  size_t count = tc_inbox_take(inbox, keys, limit);
  for (size_t i = 0; i < count; i++) {
    struct tc_call *call = tc_call_named(keys[i]);
    answers[i].response = NULL;
    if (tc_call_take_answer(call, keys[i], 0, &answers[i])) tc_calls_put_back(&call, 1);
  }
  return count;
}
