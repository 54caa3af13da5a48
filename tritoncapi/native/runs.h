/* Runs, as runs.c, many.c and aside.c share them. */
#ifndef TRITONCAPI_RUNS_H
#define TRITONCAPI_RUNS_H

#include "allocator.h"
#include "calls.h"
#include "outputs.h"

enum { TC_RUN_THREADS = 8 };

/* Python's, where it may do as it likes; to be sent again as it is, by whoever takes it; taken; and somebody waits. */
enum { TC_OWNED = 0, TC_READY = 1, TC_TAKEN = 2, TC_WANTED = 3 };

struct tc_run {
  TRITONSERVER_Server *server;
  TRITONSERVER_InferenceRequest *request;
  TRITONSERVER_ResponseAllocator *allocator;
  void *allocator_userp;
  TRITONSERVER_InferenceTrace *trace;
  int64_t timeout_ns;
  _Atomic(TRITONSERVER_InferenceResponse *) aside; /* closed; goes when the next one comes */
  _Atomic uint32_t state;
  uint32_t thread_count; /* more than TC_RUN_THREADS: not all are known */
  int64_t threads[TC_RUN_THREADS]; /* that the model answered on, in calls of many */
  _Atomic int64_t taker; /* the thread that has it taken; 0: none, or not long enough to be interrupted */
  struct tc_look *look; /* where the outputs of a single run go; NULL while nobody reads them */
  /* Results */
  uint64_t key; /* of the call while it is out, and when this is not the whole answer: the caller goes on; else 0 */
  struct tc_answer answer;
};

struct tc_many {
  struct tc_run **runs;
  struct tc_answer *answers; /* idle: responses that were closed, or none */
  struct tc_call **calls; /* room for as many */
  size_t count;
  struct tc_lender *lender; /* of the answers, when those that are closed may be kept; else NULL */
  TRITONSERVER_ResponseAllocator *chosen; /* with its userp: what those that are ready must have been sent with */
  void *chosen_userp;
  int64_t timeout_ns;
  int64_t ready; /* only if all are TC_READY, as they are then again when they are answered */
  /* Results */
  size_t submitted;  /* SIZE_MAX: they are not all ready, and nothing was sent */
  size_t settled;    /* the first ones: they may be sent again by now */
  size_t unfinished; /* those that go on, with their keys: Python's, or if all were ready its own from tc_many_let_go on */
};

static inline void tc_run_set_key(struct tc_run *run, uint64_t key) {
  __atomic_store_n(&run->key, key, __ATOMIC_RELEASE); /* other threads may cancel it while it has one */
}

bool tc_has_room_aside(struct tc_lender *lender);

/* What was put aside, for the caller to delete; NULL for nothing. */
TRITONSERVER_InferenceResponse *tc_run_take_aside(struct tc_run *run, TRITONSERVER_InferenceResponse *instead);

#endif
