/* Calls, as calls.c and runs.c share them. */
#ifndef TRITONCAPI_CALLS_H
#define TRITONCAPI_CALLS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "notices.h"
#include "triton.h"

struct tc_event {
  TRITONSERVER_InferenceResponse *response; /* NULL: a final flag without a response */
  int64_t time_ns;
  uint32_t flags;
};

struct tc_state {
  uint32_t responses;    /* response callbacks with a response */
  uint32_t finals;       /* response callbacks with the FINAL flag */
  uint32_t releases;     /* release callbacks with the ALL flag */
  uint32_t reschedules;  /* release callbacks without it */
  uint32_t waiting;      /* events filed and not yet taken */
  uint32_t done;         /* final response and release both came */
  int64_t start_ns, first_response_ns, final_ns, release_ns;
  int64_t thread; /* kernel's id of the thread that the last callback came on: the model instance's, mostly */
};

struct tc_call {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint64_t key;
  atomic_uint references;
  bool notify;
  bool closed;
  struct tc_inbox *inbox; /* where the key goes when all has come */
  uint32_t wait_any, wait_done; /* who waits for an event, and who for the end alone */
  struct tc_state state;
  struct tc_event *events; /* events[head, tail) wait to be taken */
  size_t head, tail, capacity;
  struct tc_call *next; /* in its bucket */
};

/* What came of a call that was answered with one response. */
struct tc_answer {
  TRITONSERVER_InferenceResponse *response; /* NULL: it goes on, or was not submitted */
  int64_t time_ns, thread;
  uint32_t final, failed; /* flags of the response: the last one; it stands for an error */
};

/* With a reference for the caller, which tc_call_put_back and tc_call_finish take. */
struct tc_call *tc_call_find(uint64_t key);
void tc_call_put_back(struct tc_call *call);
void tc_call_finish(struct tc_call *call);
TRITONSERVER_Error *tc_call_begin(
    TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request, TRITONSERVER_ResponseAllocator *allocator,
    void *allocator_userp, TRITONSERVER_InferenceTrace *trace, struct tc_inbox *inbox, struct tc_call **started);
bool tc_call_take_answer(struct tc_call *call, int64_t timeout_ns, struct tc_answer *answer);
bool tc_call_wait_for(struct tc_call *call, int until_done, int64_t timeout_ns);

#endif
