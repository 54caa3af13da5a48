/* Responses that were closed: deleted, or put aside until the next one to their request comes. */
#define _GNU_SOURCE
#include "runs.h"

/* Instead of a response that is put aside: from now on they are deleted at once. */
#define NOTHING_MORE ((TRITONSERVER_InferenceResponse *)-1)

/* Bytes of outputs that may be out, of all that an allocator gave, while responses are put aside. */
static const uint64_t PLENTY = 1 << 20;

/* What was put aside, for the caller to delete; NULL for nothing. */
TRITONSERVER_InferenceResponse *tc_run_take_aside(struct tc_run *run, TRITONSERVER_InferenceResponse *instead) {
  TRITONSERVER_InferenceResponse *old = atomic_load_explicit(&run->aside, memory_order_relaxed);
  if (!old && !instead) return NULL;
  while (old != NOTHING_MORE && !atomic_compare_exchange_weak(&run->aside, &old, instead)) continue;
  return old == NOTHING_MORE ? NULL : old;
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

/* Whether there is little out of what this allocator gave, so that some of it may stay so. */
bool tc_has_room_aside(struct tc_lender *lender) { return lender->live_bytes(lender) <= PLENTY; }

static bool put_aside(struct tc_run *run, TRITONSERVER_InferenceResponse *response) {
  TRITONSERVER_InferenceResponse *none = NULL;
  return !atomic_load_explicit(&run->aside, memory_order_relaxed) &&
         atomic_compare_exchange_strong(&run->aside, &none, response);
}

/* Deletes a response to this request, with outputs that this allocator of ours gave; or leaves that to the thread that
 * brings the next one: it made it, and deletes and makes the quickest what stays in its caches. The request holds the
 * model meanwhile. Not where there is much to hold; nor without a run, for a request that has gone. The error is the
 * caller's. */
TRITONSERVER_Error *tc_run_put_aside(
    struct tc_run *run, TRITONSERVER_InferenceResponse *response, struct tc_lender *lender) {
  if (run && tc_has_room_aside(lender) && put_aside(run, response)) return NULL;
  return tc_triton.InferenceResponseDelete(response);
}

/* The same for many, but those that are not put aside are the caller's still. Says whether there are some. */
int tc_many_put_aside(struct tc_many *many) {
  struct tc_answer *answers = many->answers;
  if (!tc_has_room_aside(many->lender)) return 1;
  int left = 0;
  for (size_t i = 0; i < many->count; i++) {
    if (!answers[i].response) continue;
    if (put_aside(many->runs[i], answers[i].response))
      answers[i].response = NULL;
    else
      left = 1;
  }
  return left;
}

TRITONSERVER_Error *tc_many_delete(struct tc_many *many) { return tc_answers_delete(many->answers, many->count); }

/* Deletes what was put aside. With `last`, what comes later is deleted at once: the request goes. */
void tc_run_clear(struct tc_run *run, int last) {
  TRITONSERVER_InferenceResponse *old = tc_run_take_aside(run, last ? NOTHING_MORE : NULL);
  TRITONSERVER_Error *error = old ? tc_triton.InferenceResponseDelete(old) : NULL;
  if (error) tc_triton.ErrorDelete(error);
}
