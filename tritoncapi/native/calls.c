/* Calls: one execution of a request, from ServerInferAsync to its final response and its release.
 *
 * Triton's callbacks arrive on its own threads. They must not wait for Python's interpreter lock, so they end here: a
 * callback files its event under the call's key and wakes whoever waits. Keys are never reused, so an answer that comes
 * after the call was closed (a backend that answers twice) finds nothing, is counted as a stray and deleted. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "calls.h"

enum { STRIPES = 64, BUCKETS = 16, IDLE = 16, EVENTS = 64 }; /* powers of two; keys are consecutive, so they spread evenly */

/* The table, in stripes with a lock each: Triton's threads look calls up at the same time. */
static struct stripe {
  _Alignas(64) pthread_mutex_t lock;
  struct tc_call *buckets[BUCKETS];
  struct tc_call *idle; /* to be used again, with what a call costs to make */
  uint32_t idle_count;
} stripes[STRIPES] = {[0 ... STRIPES - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER}};
static _Atomic uint64_t last_key, open_calls, strays;

static struct stripe *stripe_of(uint64_t key) { return &stripes[key % STRIPES]; }

static struct tc_call **bucket_of(struct stripe *stripe, uint64_t key) {
  return &stripe->buckets[key / STRIPES % BUCKETS];
}

struct tc_call *tc_call_find(uint64_t key) {
  struct stripe *stripe = stripe_of(key);
  pthread_mutex_lock(&stripe->lock);
  struct tc_call *call = *bucket_of(stripe, key);
  while (call && call->key != key) call = call->next;
  if (call) atomic_fetch_add(&call->references, 1); /* the table has one, so it is not gone */
  pthread_mutex_unlock(&stripe->lock);
  return call;
}

static void free_call(struct tc_call *call) {
  pthread_cond_destroy(&call->changed);
  pthread_mutex_destroy(&call->lock);
  free(call->events);
  free(call);
}

void tc_call_put_back(struct tc_call *call) {
  if (atomic_fetch_sub(&call->references, 1) != 1) return;
  if (call->inbox) tc_inbox_drop(call->inbox);
  struct stripe *stripe = stripe_of(call->key);
  pthread_mutex_lock(&stripe->lock);
  bool kept = stripe->idle_count < IDLE && call->capacity <= EVENTS;
  if (kept) {
    call->next = stripe->idle;
    stripe->idle = call;
    stripe->idle_count++;
  }
  pthread_mutex_unlock(&stripe->lock);
  if (!kept) free_call(call);
}

/* A call that is not in the table; NULL without memory. */
static struct tc_call *new_call(uint64_t key) {
  struct stripe *stripe = stripe_of(key);
  pthread_mutex_lock(&stripe->lock);
  struct tc_call *call = stripe->idle;
  if (call) {
    stripe->idle = call->next;
    stripe->idle_count--;
  }
  pthread_mutex_unlock(&stripe->lock);
  if (call) {
    call->notify = call->closed = false;
    call->wait_any = call->wait_done = 0;
    call->state = (struct tc_state){0};
    call->head = call->tail = 0;
  } else {
    call = calloc(1, sizeof *call);
    if (!call) return NULL;
    pthread_mutex_init(&call->lock, NULL);
    tc_condition_init(&call->changed);
  }
  call->key = key;
  return call;
}

static void delete_response(TRITONSERVER_InferenceResponse *response) {
  if (!response) return;
  TRITONSERVER_Error *error = tc_triton.InferenceResponseDelete(response);
  if (error) tc_triton.ErrorDelete(error);
}

static void count_stray(TRITONSERVER_InferenceResponse *response) {
  atomic_fetch_add(&strays, 1);
  delete_response(response);
}

static void file_event(struct tc_call *call, struct tc_event event) {
  if (call->head == call->tail) call->head = call->tail = 0;
  if (call->tail == call->capacity) {
    size_t capacity = call->capacity ? 2 * call->capacity : 2;
    struct tc_event *events = realloc(call->events, capacity * sizeof *events);
    if (!events) abort();
    call->events = events;
    call->capacity = capacity;
  }
  call->events[call->tail++] = event;
}

/* Wakes those who wait for what came. One who waits for the end is not woken for each part of it. */
static void announce(struct tc_call *call) {
  bool before = call->state.done;
  call->state.done = call->state.finals && call->state.releases;
  if (call->state.done && !before && call->inbox) tc_inbox_post(call->inbox, call->key);
  if (call->wait_any || (call->wait_done && call->state.done)) pthread_cond_broadcast(&call->changed);
}

static void on_response(TRITONSERVER_InferenceResponse *response, const uint32_t flags, void *userp) {
  uint64_t key = (uint64_t)(uintptr_t)userp;
  struct tc_call *call = tc_call_find(key);
  if (!call) {
    count_stray(response);
    return;
  }
  struct tc_event event = {.response = response, .time_ns = tc_now(), .flags = flags};
  pthread_mutex_lock(&call->lock);
  if (call->closed) {
    pthread_mutex_unlock(&call->lock);
    count_stray(response);
    tc_call_put_back(call);
    return;
  }
  struct tc_state *state = &call->state;
  if (response && state->responses++ == 0) state->first_response_ns = event.time_ns;
  if ((flags & TC_RESPONSE_FINAL) && state->finals++ == 0) state->final_ns = event.time_ns;
  state->thread = tc_thread();
  file_event(call, event);
  announce(call);
  bool notify = call->notify;
  pthread_mutex_unlock(&call->lock);
  if (notify) tc_notice_post(key);
  tc_call_put_back(call);
}

static void on_release(TRITONSERVER_InferenceRequest *request, const uint32_t flags, void *userp) {
  (void)request;
  uint64_t key = (uint64_t)(uintptr_t)userp;
  struct tc_call *call = tc_call_find(key);
  if (!call) {
    count_stray(NULL);
    return;
  }
  pthread_mutex_lock(&call->lock);
  struct tc_state *state = &call->state;
  if (flags & TC_RELEASE_ALL) {
    if (state->releases++ == 0) state->release_ns = tc_now();
  } else {
    state->reschedules++; /* still Triton's: it will be executed again */
  }
  state->thread = tc_thread();
  announce(call);
  bool notify = call->notify;
  pthread_mutex_unlock(&call->lock);
  if (notify) tc_notice_post(key);
  tc_call_put_back(call);
}

static void remove_from_table(struct tc_call *call) {
  struct stripe *stripe = stripe_of(call->key);
  pthread_mutex_lock(&stripe->lock);
  struct tc_call **link = bucket_of(stripe, call->key);
  while (*link && *link != call) link = &(*link)->next;
  if (*link) {
    *link = call->next;
    atomic_fetch_sub(&call->references, 1); /* the table's own; the caller holds another */
    atomic_fetch_sub(&open_calls, 1);
  }
  pthread_mutex_unlock(&stripe->lock);
}

/* Forgets the call, and the caller's reference. Responses that nobody took are deleted; later ones are strays. */
void tc_call_finish(struct tc_call *call) {
  remove_from_table(call);
  pthread_mutex_lock(&call->lock);
  call->closed = true;
  size_t head = call->head, tail = call->tail;
  call->head = call->tail = 0;
  if (call->wait_any || call->wait_done) pthread_cond_broadcast(&call->changed);
  pthread_mutex_unlock(&call->lock);
  for (; head < tail; head++) delete_response(call->events[head].response);
  tc_call_put_back(call);
}

void tc_call_close(uint64_t key) {
  struct tc_call *call = tc_call_find(key);
  if (call) tc_call_finish(call);
}

/* Sets both callbacks and submits the request. On success `*started` is the call with a reference for the caller; else
 * it is NULL and nothing was kept. */
TRITONSERVER_Error *tc_call_begin(
    TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request, TRITONSERVER_ResponseAllocator *allocator,
    void *allocator_userp, TRITONSERVER_InferenceTrace *trace, struct tc_inbox *inbox, struct tc_call **started) {
  *started = NULL;
  uint64_t mine = atomic_fetch_add(&last_key, 1) + 1;
  struct tc_call *call = new_call(mine);
  if (!call) return tc_triton.ErrorNew(TC_ERROR_INTERNAL, "out of memory for a call");
  atomic_store(&call->references, 2); /* the table's and the caller's */
  call->state.start_ns = tc_now();
  if (inbox) tc_inbox_hold(inbox);
  call->inbox = inbox;

  /* Registered before it is submitted: the answer may come before ServerInferAsync returns. */
  struct stripe *stripe = stripe_of(mine);
  struct tc_call **bucket = bucket_of(stripe, mine);
  pthread_mutex_lock(&stripe->lock);
  call->next = *bucket;
  *bucket = call;
  atomic_fetch_add(&open_calls, 1);
  pthread_mutex_unlock(&stripe->lock);

  void *userp = (void *)(uintptr_t)mine;
  TRITONSERVER_Error *error = tc_triton.InferenceRequestSetReleaseCallback(request, on_release, userp);
  if (!error)
    error = tc_triton.InferenceRequestSetResponseCallback(request, allocator, allocator_userp, on_response, userp);
  if (!error) error = tc_triton.ServerInferAsync(server, request, trace);
  if (error)
    tc_call_finish(call);
  else
    *started = call;
  return error;
}

/* On success `*key` names the call. */
TRITONSERVER_Error *tc_call_start(
    TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request, TRITONSERVER_ResponseAllocator *allocator,
    void *allocator_userp, TRITONSERVER_InferenceTrace *trace, uint64_t *key) {
  struct tc_call *call;
  TRITONSERVER_Error *error = tc_call_begin(server, request, allocator, allocator_userp, trace, NULL, &call);
  *key = error ? 0 : call->key;
  if (!error) tc_call_put_back(call);
  return error;
}

static bool is_met(const struct tc_call *call, int until_done) {
  return call->state.done || (!until_done && call->head != call->tail);
}

/* Waits until it is met, the call is closed, or the time is over; the call's lock is held. */
bool tc_call_wait_for(struct tc_call *call, int until_done, int64_t timeout_ns) {
  if (is_met(call, until_done) || timeout_ns == 0) return is_met(call, until_done);
  int64_t deadline = tc_deadline_after(timeout_ns);
  uint32_t *waiters = until_done ? &call->wait_done : &call->wait_any;
  (*waiters)++;
  while (!is_met(call, until_done) && !call->closed)
    if (!tc_wait_until(&call->changed, &call->lock, deadline)) break;
  (*waiters)--;
  return is_met(call, until_done);
}

/* Waits, and takes the response when the answer is whole: all has come, and one response was in it. Says whether. */
bool tc_call_take_answer(struct tc_call *call, int64_t timeout_ns, struct tc_answer *answer) {
  pthread_mutex_lock(&call->lock);
  tc_call_wait_for(call, 1, timeout_ns);
  bool whole = call->state.done && call->state.responses == 1;
  answer->thread = call->state.thread;
  for (size_t i = call->head; whole && i < call->tail; i++) {
    struct tc_event *event = &call->events[i];
    if (!event->response) continue;
    answer->response = event->response;
    answer->time_ns = event->time_ns;
    answer->final = event->flags & TC_RESPONSE_FINAL;
    event->response = NULL;
  }
  pthread_mutex_unlock(&call->lock);
  if (whole) answer->failed = tc_triton.InferenceResponseError(answer->response) != NULL;
  return whole;
}

/* Waits until an event can be taken, or the call is done, or (until_done) only the latter. Fills `state`.
 * Returns 1 when what was waited for is there, 0 when the time is over, -1 when there is no such call. */
int tc_call_wait(uint64_t key, int64_t timeout_ns, int until_done, struct tc_state *state) {
  struct tc_call *call = tc_call_find(key);
  if (!call) return -1;
  pthread_mutex_lock(&call->lock);
  int met = tc_call_wait_for(call, until_done, timeout_ns);
  *state = call->state;
  state->waiting = (uint32_t)(call->tail - call->head);
  if (call->closed) met = -1;
  pthread_mutex_unlock(&call->lock);
  tc_call_put_back(call);
  return met;
}

/* Takes the oldest event; the response is then the caller's. Returns 1, or 0 when none waits, -1: no such call. */
int tc_call_take(uint64_t key, struct tc_event *event) {
  struct tc_call *call = tc_call_find(key);
  if (!call) return -1;
  pthread_mutex_lock(&call->lock);
  int taken = call->head != call->tail;
  if (taken) *event = call->events[call->head++];
  pthread_mutex_unlock(&call->lock);
  tc_call_put_back(call);
  return taken;
}

/* From now on every event of this call posts a notice; one is posted at once, for what came before. */
int tc_call_notify(uint64_t key) {
  struct tc_call *call = tc_call_find(key);
  if (!call) return -1;
  pthread_mutex_lock(&call->lock);
  call->notify = true;
  pthread_mutex_unlock(&call->lock);
  tc_notice_post(key);
  tc_call_put_back(call);
  return 0;
}

/* Calls that are open now, and events that came for calls already closed. */
void tc_calls_count(uint64_t *open, uint64_t *stray) {
  *open = atomic_load(&open_calls);
  *stray = atomic_load(&strays);
}
