/* Runs: one request, or many, in one call from Python: submitted, waited for, answered. */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "calls.h"

enum { THREADS = 8, LARGE = 65536, TOGETHER = 64 };

/* Python's, where it may do as it likes; to be sent again as it is, by whoever takes it; taken; and somebody waits. */
enum { OWNED = 0, READY = 1, TAKEN = 2, WANTED = 3 };

struct tc_run {
  TRITONSERVER_Server *server;
  TRITONSERVER_InferenceRequest *request;
  TRITONSERVER_ResponseAllocator *allocator;
  void *allocator_userp;
  TRITONSERVER_InferenceTrace *trace;
  int64_t timeout_ns;
  _Atomic(TRITONSERVER_InferenceResponse *) aside; /* closed; goes when the next one comes. NOTHING_MORE: at once */
  _Atomic uint32_t state;
  uint32_t thread_count; /* more than THREADS: not all are known */
  int64_t threads[THREADS]; /* that the model answered on, in calls of many */
  /* Results */
  uint64_t key; /* of the call while it is out, and when this is not the whole answer: the caller goes on; else 0 */
  struct tc_answer answer;
};

#define NOTHING_MORE ((TRITONSERVER_InferenceResponse *)-1)

/* What was put aside, for the caller to delete; NULL for nothing. */
static TRITONSERVER_InferenceResponse *take_aside(struct tc_run *run, TRITONSERVER_InferenceResponse *instead) {
  TRITONSERVER_InferenceResponse *old = atomic_load_explicit(&run->aside, memory_order_relaxed);
  if (!old && !instead) return NULL;
  while (old != NOTHING_MORE && !atomic_compare_exchange_weak(&run->aside, &old, instead)) continue;
  return old == NOTHING_MORE ? NULL : old;
}

static void set_key(struct tc_run *run, uint64_t key) { __atomic_store_n(&run->key, key, __ATOMIC_RELEASE); }

static TRITONSERVER_Error *begin_run(struct tc_run *run, struct tc_inbox *inbox, struct tc_call *call) {
  run->answer.response = NULL;
  uint64_t key;
  TRITONSERVER_Error *error = tc_call_begin(
      call, run->server, run->request, run->allocator, run->allocator_userp, run->trace, inbox,
      take_aside(run, NULL), &key);
  set_key(run, key); /* other threads may cancel it from now on */
  return error;
}

/* Returns what Triton refused it with, or NULL. When all has come in time, and one response was in it, then that is the
 * caller's and the call is closed. */
TRITONSERVER_Error *tc_call_run(struct tc_run *run) {
  struct tc_call *call;
  run->key = 0;
  if (!tc_calls_reserve(&call, 1)) return tc_calls_exhausted();
  TRITONSERVER_Error *error = begin_run(run, NULL, call);
  if (!error && !tc_call_await_answer(call, run->key, run->timeout_ns, &run->answer)) return NULL;
  set_key(run, 0);
  tc_calls_put_back(&call, 1);
  return error;
}

/* Many at a time */

static void futex(_Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *timeout) {
  syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

static void let_go(struct tc_run *run, uint32_t state) {
  if (atomic_exchange(&run->state, state) == WANTED) futex(&run->state, FUTEX_WAKE_PRIVATE, INT_MAX, NULL);
}

/* All of them, or none. */
static bool take_all(struct tc_run **runs, size_t count) {
  for (size_t i = 0; i < count; i++) {
    uint32_t ready = READY;
    if (atomic_compare_exchange_strong(&runs[i]->state, &ready, TAKEN)) continue;
    while (i-- > 0) let_go(runs[i], READY);
    return false;
  }
  return true;
}

/* Makes the run Python's, when it is not within a call of many: waits for that, but not for ever. Says whether. */
int tc_run_own(struct tc_run *run, int64_t timeout_ns) {
  int64_t deadline = tc_deadline_after(timeout_ns);
  for (;;) {
    uint32_t state = READY;
    if (atomic_compare_exchange_strong(&run->state, &state, OWNED) || state == OWNED) return 1;
    int64_t left = deadline < 0 ? INT64_MAX : deadline - tc_now();
    if (left <= 0) return 0;
    if (state == TAKEN && !atomic_compare_exchange_strong(&run->state, &state, WANTED)) continue;
    struct timespec rest = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    futex(&run->state, FUTEX_WAIT_PRIVATE, WANTED, deadline < 0 ? NULL : &rest);
  }
}

/* Python has done with it: OWNED keeps it, READY lets others take it. */
void tc_run_leave(struct tc_run *run, int ready) { let_go(run, ready ? READY : OWNED); }

static void note_thread(struct tc_run *run, int64_t thread) {
  uint32_t known = run->thread_count < THREADS ? run->thread_count : THREADS;
  for (uint32_t i = 0; i < known; i++)
    if (run->threads[i] == thread) return;
  if (known < THREADS) run->threads[known] = thread;
  run->thread_count = known + 1;
}

/* Submits them one right after the other, so that Triton's threads find the next one and need not be woken for each.
 * `*begun` are out; the calls of the others are as they were. */
static TRITONSERVER_Error *begin_all(struct tc_run **runs, struct tc_call **calls, size_t count, size_t *begun) {
  TRITONSERVER_Error *error = NULL;
  size_t prepared = 0;
  uint64_t keys[TOGETHER];
  for (*begun = 0; *begun < count && !error;) {
    size_t end = count - *begun < TOGETHER ? count : *begun + TOGETHER;
    for (prepared = *begun; prepared < end && !error;) {
      struct tc_run *run = runs[prepared];
      run->answer.response = NULL;
      error = tc_call_prepare(
          calls[prepared], run->request, run->allocator, run->allocator_userp, NULL, take_aside(run, NULL),
          &keys[prepared - *begun]);
      if (!error) prepared++;
    }
    TRITONSERVER_Error *refused = NULL;
    size_t first = *begun;
    for (; *begun < prepared; ++*begun) {
      struct tc_run *run = runs[*begun];
      refused = tc_call_submit(calls[*begun], run->server, run->request, run->trace);
      if (refused) break;
      set_key(run, keys[*begun - first]); /* other threads may cancel it from now on */
    }
    if (refused) {
      for (size_t i = *begun + 1; i < prepared; i++) tc_call_close_prepared(calls[i]);
      if (error) tc_triton.ErrorDelete(error);
      error = refused;
    }
  }
  return error;
}

/* The same for many: all are submitted before one is waited for. Returns what Triton refused one with; the later ones
 * are then not submitted, those before it are answered as usual. `*submitted` says how many, `*unfinished` how many of
 * them go on: these are Python's, with their keys. With `ready` all have to be READY, and are so again when they are
 * answered; else nothing is sent, and `*submitted` is SIZE_MAX. */
TRITONSERVER_Error *tc_call_run_many(
    struct tc_run **runs, struct tc_answer *answers, size_t count, int64_t timeout_ns, int ready, size_t *submitted,
    size_t *unfinished) {
  *submitted = *unfinished = 0;
  if (!count) return NULL;
  struct tc_call **calls = malloc(count * sizeof *calls);
  if (!calls || !tc_calls_reserve(calls, count)) {
    free(calls);
    return tc_calls_exhausted();
  }
  if (ready && !take_all(runs, count)) {
    *submitted = SIZE_MAX;
    tc_calls_put_back(calls, count);
    free(calls);
    return NULL;
  }
  int64_t deadline = tc_deadline_after(timeout_ns);
  size_t begun = 0, done = 0;
  TRITONSERVER_Error *error = begin_all(runs, calls, count, &begun);
  *submitted = begun;
  /* The last one first: when it is done the others mostly are, so there is one wake-up, not one for each. */
  for (size_t i = count; i-- > 0;) {
    struct tc_run *run = runs[i];
    bool whole = i >= begun;
    if (!whole) {
      int64_t left = deadline < 0 ? -1 : deadline - tc_now();
      whole = tc_call_take_answer(calls[i], run->key, deadline >= 0 && left < 0 ? 0 : left, &answers[i]);
      if (whole) note_thread(run, answers[i].thread);
    }
    if (whole) {
      set_key(run, 0);
      calls[count - ++done] = calls[i];
      let_go(run, ready ? READY : OWNED);
    } else {
      ++*unfinished;
      let_go(run, OWNED);
    }
  }
  tc_calls_put_back(calls + count - done, done);
  free(calls);
  return error;
}

/* Submits only; the key, which stays in the run, goes to the inbox when all has come. */
TRITONSERVER_Error *tc_call_post(struct tc_run *run, struct tc_inbox *inbox) {
  struct tc_call *call;
  run->key = 0;
  if (!tc_calls_reserve(&call, 1)) return tc_calls_exhausted();
  TRITONSERVER_Error *error = begin_run(run, inbox, call);
  if (error) tc_calls_put_back(&call, 1);
  return error;
}

/* Submits them all, whatever becomes of each. `errors[i]` is what Triton refused one with, or NULL. Returns how many it
 * refused. */
size_t tc_calls_post(struct tc_run **runs, TRITONSERVER_Error **errors, size_t count, struct tc_inbox *inbox) {
  size_t refused = 0;
  for (size_t i = 0; i < count; i++) {
    errors[i] = tc_call_post(runs[i], inbox);
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

/* Responses that were closed */

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

static bool is_large(TRITONSERVER_InferenceResponse *response) {
  uint32_t count = 0;
  size_t total = 0;
  TRITONSERVER_Error *error = tc_triton.InferenceResponseOutputCount(response, &count);
  for (uint32_t i = 0; !error && i < count; i++) {
    const char *name;
    const void *base;
    const int64_t *shape;
    void *userp;
    uint64_t dims;
    int64_t device;
    size_t byte_size;
    int datatype, memory_type;
    error = tc_triton.InferenceResponseOutput(
        response, i, &name, &datatype, &shape, &dims, &base, &byte_size, &memory_type, &device, &userp);
    if (!error) total += byte_size;
  }
  if (error) tc_triton.ErrorDelete(error);
  return error || total > LARGE;
}

/* For responses on the CPU: quick enough to keep the interpreter lock. The error is the caller's. */
TRITONSERVER_Error *tc_response_delete(TRITONSERVER_InferenceResponse *response) {
  return tc_triton.InferenceResponseDelete(response);
}

/* Deletes a response to this request, or, if it is small, leaves that to the thread that brings the next one: it made
 * it, and deletes and makes the quickest what stays in its caches. The request holds the model meanwhile. */
TRITONSERVER_Error *tc_run_put_aside(struct tc_run *run, TRITONSERVER_InferenceResponse *response) {
  TRITONSERVER_InferenceResponse *none = NULL;
  if (!atomic_load_explicit(&run->aside, memory_order_relaxed) && !is_large(response) &&
      atomic_compare_exchange_strong(&run->aside, &none, response))
    return NULL;
  return tc_triton.InferenceResponseDelete(response);
}

/* The same for many. */
TRITONSERVER_Error *tc_runs_put_aside(struct tc_run **runs, struct tc_answer *answers, size_t count) {
  TRITONSERVER_Error *first = NULL;
  for (size_t i = 0; i < count; i++) {
    TRITONSERVER_Error *error = answers[i].response ? tc_run_put_aside(runs[i], answers[i].response) : NULL;
    answers[i].response = NULL;
    if (error && first) tc_triton.ErrorDelete(error);
    if (!first) first = error;
  }
  return first;
}

/* Deletes what was put aside. With `last`, what comes later is deleted at once: the request goes. */
void tc_run_clear(struct tc_run *run, int last) {
  TRITONSERVER_InferenceResponse *old = take_aside(run, last ? NOTHING_MORE : NULL);
  TRITONSERVER_Error *error = old ? tc_triton.InferenceResponseDelete(old) : NULL;
  if (error) tc_triton.ErrorDelete(error);
}
