/* Calls, as calls.c and runs.c share them. */
#ifndef TRITONCAPI_CALLS_H
#define TRITONCAPI_CALLS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "group.h"
#include "notices.h"
#include "triton.h"

struct tc_event {
  TRITONSERVER_InferenceResponse *response; /* NULL: a final flag without a response */
  int64_t time_ns;
  uint32_t flags, failed; /* of the response; it stands for an error */
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

enum { TC_FEW = 2 }; /* events: more are the exception */

/* In lines of the cache: callbacks have the first four in turn with who sends many, on another core. */
struct tc_call {
  _Alignas(64) pthread_mutex_t lock;
  uint64_t key;     /* 0: closed */
  atomic_bool over; /* a hint: it may be worth the lock to look */
  bool notify;
  uint32_t wait_any, wait_done; /* who waits for an event, and who for the end alone */
  uint32_t head;                /* events[head, tail) wait to be taken */
  struct tc_state state;
  struct tc_event few[TC_FEW];
  struct tc_group *group;
  struct tc_answer *answer; /* in a group: where a whole answer goes; the call is closed then */
  struct tc_event *events;
  uint32_t tail, capacity;
  struct tc_inbox *inbox;              /* where the key goes when all has come */
  TRITONSERVER_InferenceResponse *old; /* to be deleted when a new one comes */
  TRITONSERVER_ResponseAllocator *allocator;
  /* Who reserves and puts back many has these in its cache. */
  _Alignas(64) uint64_t next_key;
  struct tc_call *next; /* of those that are idle */
  pthread_cond_t changed;
};

/* Brings what callbacks had last to this core, for who is about to prepare the call. */
static inline void tc_call_fetch(const struct tc_call *call) {
  for (size_t at = 0; at < offsetof(struct tc_call, next_key); at += 64)
    __builtin_prefetch((const char *)call + at, 1);
}

/* What came of a call that was answered with one response. */
struct tc_answer {
  TRITONSERVER_InferenceResponse *response; /* NULL: it goes on, or was not submitted */
  int64_t time_ns, thread;
  uint32_t final, failed; /* flags of the response: the last one; it stands for an error */
};

enum { TC_NUMBER_BITS = 24 }; /* of a key: the call's number */

bool tc_calls_reserve(struct tc_call **calls, size_t count);
void tc_calls_put_back(struct tc_call **calls, size_t count);
TRITONSERVER_Error *tc_calls_exhausted(void);
TRITONSERVER_Error *tc_call_prepare(
    struct tc_call *call, TRITONSERVER_InferenceRequest *request, TRITONSERVER_ResponseAllocator *allocator,
    void *allocator_userp, struct tc_inbox *inbox, struct tc_group *group, TRITONSERVER_InferenceResponse *old,
    uint64_t *key);
void tc_call_close_prepared(struct tc_call *call);
TRITONSERVER_Error *tc_call_submit(
    struct tc_call *call, TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request,
    TRITONSERVER_InferenceTrace *trace);
TRITONSERVER_Error *tc_call_begin(
    struct tc_call *call, TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request,
    TRITONSERVER_ResponseAllocator *allocator, void *allocator_userp, TRITONSERVER_InferenceTrace *trace,
    struct tc_inbox *inbox, TRITONSERVER_InferenceResponse *old, uint64_t *key);
void tc_calls_ungroup(struct tc_call **calls, size_t count);
bool tc_call_take_answer(struct tc_call *call, uint64_t key, int64_t timeout_ns, struct tc_answer *answer);
bool tc_call_await_answer(struct tc_call *call, uint64_t key, int64_t timeout_ns, struct tc_answer *answer);
struct tc_call *tc_call_named(uint64_t key);
uint32_t tc_calls_out(void); /* reserved, and not put back */

#endif
