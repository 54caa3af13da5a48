/* Many runs in one call from Python. */
#define _GNU_SOURCE
#include "futex.h"
#include "runs.h"

enum { FIRST = 8, TOGETHER = 16, AHEAD = 4 };

/* Instead of an error: the results say what is left; all came, but there is too much of it to be kept when it is closed. */
#define NOT_WHOLE ((TRITONSERVER_Error *)1)
#define NOT_KEPT ((TRITONSERVER_Error *)2)

static void let_go(struct tc_run *run, uint32_t state) {
  atomic_store_explicit(&run->taker, 0, memory_order_relaxed);
  if (atomic_exchange(&run->state, state) == TC_WANTED) tc_futex_wake(&run->state);
}

/* All of them, or none. */
static bool take_all(const struct tc_many *many) {
  size_t taken = 0;
  for (; taken < many->count; taken++) {
    struct tc_run *run = many->runs[taken];
    uint32_t ready = TC_READY;
    if (!atomic_compare_exchange_strong(&run->state, &ready, TC_TAKEN)) break;
    if (run->allocator == many->chosen && run->allocator_userp == many->chosen_userp) continue;
    let_go(run, TC_READY); /* it was sent with another one since */
    break;
  }
  if (taken == many->count) return true;
  while (taken-- > 0) let_go(many->runs[taken], TC_READY);
  return false;
}

/* Makes the run Python's, when it is not within a call of many: waits for that, but not for ever; nor for one of this
 * thread's own, in the midst of which it was interrupted. Says whether. */
int tc_run_own(struct tc_run *run, int64_t timeout_ns) {
  int64_t deadline = tc_deadline_after(timeout_ns);
  for (;;) {
    uint32_t state = TC_READY;
    if (atomic_compare_exchange_strong(&run->state, &state, TC_OWNED) || state == TC_OWNED) return 1;
    if (atomic_load_explicit(&run->taker, memory_order_relaxed) == tc_thread()) return 0;
    if (state == TC_TAKEN && !atomic_compare_exchange_strong(&run->state, &state, TC_WANTED)) continue;
    if (!tc_futex_wait(&run->state, TC_WANTED, deadline)) return 0;
  }
}

/* Python has done with it: TC_OWNED keeps it, TC_READY lets others take it. */
void tc_run_leave(struct tc_run *run, int ready) { let_go(run, ready ? TC_READY : TC_OWNED); }

static void note_thread(struct tc_run *run, int64_t thread) {
  uint32_t known = run->thread_count < TC_RUN_THREADS ? run->thread_count : TC_RUN_THREADS;
  for (uint32_t i = 0; i < known; i++)
    if (run->threads[i] == thread) return;
  if (known < TC_RUN_THREADS) run->threads[known] = thread;
  run->thread_count = known + 1;
}

/* Submits them one right after the other, so that Triton's threads find the next one and need not be woken for each. Only
 * some are prepared at a time: these threads wake up and work meanwhile, and should not find that there are no more.
 * `*begun` are out; the calls of the others are as they were. */
static TRITONSERVER_Error *begin_all(const struct tc_many *many, struct tc_group *group, size_t *begun) {
  struct tc_run **runs = many->runs;
  struct tc_call **calls = many->calls;
  size_t count = many->count;
  TRITONSERVER_Error *error = NULL;
  size_t prepared = 0;
  uint64_t keys[TOGETHER];
  for (*begun = 0; *begun < count && !error;) {
    size_t most = *begun ? TOGETHER : FIRST, end = count - *begun < most ? count : *begun + most;
    tc_group_add(group, end - *begun);
    for (prepared = *begun; prepared < end && !error;) {
      struct tc_run *run = runs[prepared];
      struct tc_answer *answer = &many->answers[prepared];
      if (prepared + AHEAD < count) {
        tc_call_fetch(calls[prepared + AHEAD]);
        __builtin_prefetch(&answer[AHEAD], 1);
      }
      TRITONSERVER_InferenceResponse *old = answer->response ? answer->response : tc_run_take_aside(run, NULL);
      run->answer.response = answer->response = NULL;
      calls[prepared]->answer = answer;
      error = tc_call_prepare(
          calls[prepared], run->request, run->allocator, run->allocator_userp, NULL, group, old,
          &keys[prepared - *begun]);
      if (!error) prepared++;
    }
    if (error) tc_group_remove(group, end - prepared - 1);
    TRITONSERVER_Error *refused = NULL;
    size_t first = *begun;
    for (; *begun < prepared; ++*begun) {
      struct tc_run *run = runs[*begun];
      refused = tc_call_submit(calls[*begun], run->server, run->request, run->trace);
      if (refused) break;
      tc_run_set_key(run, keys[*begun - first]); /* other threads may cancel it from now on */
    }
    if (refused) {
      for (size_t i = *begun + 1; i < prepared; i++) tc_call_close_prepared(calls[i]);
      if (error) tc_triton.ErrorDelete(error);
      error = refused;
    }
  }
  return error;
}

static bool is_answered(const struct tc_answer *answer) {
  return __atomic_load_n(&answer->response, __ATOMIC_ACQUIRE) != NULL;
}

/* One that is answered, or was not submitted: it may be sent again. */
static void settle(const struct tc_many *many, size_t number) {
  struct tc_run *run = many->runs[number];
  if (number < many->submitted) note_thread(run, many->answers[number].thread);
  tc_run_set_key(run, 0);
  let_go(run, many->ready ? TC_READY : TC_OWNED);
}

/* The first of them, as far as they are answered: while the others are worked on, that costs nothing. */
static void settle_first(void *userp) {
  struct tc_many *many = userp;
  while (many->settled < many->submitted && is_answered(&many->answers[many->settled])) settle(many, many->settled++);
}

/* All are submitted before one is waited for. Responses that the answers have yet were closed: each goes when its
 * successor comes. Returns NULL when each is answered, and they may be left so; NOT_KEPT, NOT_WHOLE, or what Triton
 * refused one with; the later ones are then not submitted, those before it are answered as usual. */
TRITONSERVER_Error *tc_many_run(struct tc_many *many) {
  size_t count = many->count, begun = 0;
  many->submitted = many->unfinished = many->settled = 0;
  if (!tc_calls_reserve(many->calls, count)) return tc_calls_exhausted();
  if (many->ready && !take_all(many)) {
    many->submitted = SIZE_MAX;
    tc_calls_put_back(many->calls, count);
    return NOT_WHOLE;
  }
  int64_t deadline = tc_deadline_after(many->timeout_ns);
  struct tc_group group;
  tc_group_open(&group, count, settle_first, many);
  TRITONSERVER_Error *error = begin_all(many, &group, &begun);
  many->submitted = begun;
  if (!tc_group_wait(&group, deadline)) tc_calls_ungroup(many->calls, begun);
  size_t done = many->settled;
  for (size_t i = done; i < count; i++) {
    if (i >= begun || is_answered(&many->answers[i])) {
      settle(many, i);
      many->calls[done++] = many->calls[i];
      continue;
    }
    many->unfinished++;
    struct tc_run *run = many->runs[i];
    if (many->ready)
      atomic_store_explicit(&run->taker, tc_thread(), memory_order_relaxed);
    else
      let_go(run, TC_OWNED);
  }
  tc_group_close(&group);
  tc_calls_put_back(many->calls, done);
  if (error || many->unfinished) return error ? error : NOT_WHOLE;
  return many->lender && tc_has_room_aside(many->lender) ? NULL : NOT_KEPT;
}

/* Those of a call for which all were ready that go on are taken until Python has noted their keys. From now on they are
 * its own, for any thread. */
void tc_many_let_go(struct tc_many *many) {
  if (!many->ready || !many->unfinished) return;
  many->unfinished = 0;
  for (size_t i = 0; i < many->submitted; i++)
    if (!many->answers[i].response) let_go(many->runs[i], TC_OWNED);
}
