/* Calls: one execution of a request, from ServerInferAsync to its final response and its release.
 *
 * Triton's callbacks arrive on its own threads. They must not wait for Python's interpreter lock, so they end here: a
 * callback files its event under the call's key and wakes whoever waits. Keys are never reused, so an answer that comes
 * after the call was closed (a backend that answers twice) finds nothing, is counted as a stray and deleted.
 *
 * Calls never go back to the heap (call_table.c): whoever has a key, old or new, may lock the call it names and look. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "futex.h"

enum { EVENTS = 64 }; /* more are not kept for the next use */

static _Atomic uint64_t strays;

/* The call that a key names, with its lock held; NULL when it was closed. */
static struct tc_call *enter(uint64_t key) {
  if (!key) return NULL;
  struct tc_call *call = tc_call_named(key);
  pthread_mutex_lock(&call->lock);
  if (call->key == key) return call;
  pthread_mutex_unlock(&call->lock);
  return NULL;
}

static void delete_response(TRITONSERVER_InferenceResponse *response) {
  TRITONSERVER_Error *error = tc_triton.InferenceResponseDelete(response);
  if (error) tc_triton.ErrorDelete(error);
}

static void count_stray(TRITONSERVER_InferenceResponse *response) {
  atomic_fetch_add(&strays, 1);
  if (response) delete_response(response);
}

static void file_event(struct tc_call *call, struct tc_event event) {
  if (call->head == call->tail) call->head = call->tail = 0;
  if (call->tail == call->capacity) {
    uint32_t capacity = 2 * call->capacity;
    bool few = call->events == call->few;
    struct tc_event *events = realloc(few ? NULL : call->events, capacity * sizeof *events);
    if (!events) abort();
    if (few) memcpy(events, call->few, sizeof call->few);
    call->events = events;
    call->capacity = capacity;
  }
  call->events[call->tail++] = event;
}

/* Takes the response of a call that is done, if one came and nobody took it: the answer is whole then. Who waits for a
 * group may look at it any time: the response comes last. */
static bool take_whole(struct tc_call *call, struct tc_answer *answer) {
  if (call->state.responses != 1) return false;
  while (call->head < call->tail && !call->events[call->head].response) call->head++;
  if (call->head == call->tail) return false;
  const struct tc_event *event = &call->events[call->head++];
  answer->time_ns = event->time_ns;
  answer->thread = call->state.thread;
  answer->final = event->flags & TC_RESPONSE_FINAL;
  answer->failed = event->failed;
  __atomic_store_n(&answer->response, event->response, __ATOMIC_RELEASE);
  return true;
}

static _Atomic uint32_t *leave_group(struct tc_call *call) {
  struct tc_group *group = call->group;
  call->group = NULL;
  return tc_group_leave(group);
}

/* Done: who waits for the group finds the answer, and need not look at the call. */
static _Atomic uint32_t *finish_in_group(struct tc_call *call) {
  if (take_whole(call, call->answer)) {
    call->key = 0;
    call->head = call->tail;
  }
  return leave_group(call);
}

/* Wakes those who wait for what came, and lets the call's lock go. One who waits for the end is not woken for each part
 * of it. */
static void announce(struct tc_call *call, uint64_t key) {
  bool before = call->state.done;
  call->state.done = call->state.finals && call->state.releases;
  _Atomic uint32_t *told = NULL;
  if (call->state.done && !before) {
    if (call->inbox) tc_inbox_post(call->inbox, call->key);
    if (call->group) told = finish_in_group(call);
  }
  if (call->wait_any || (call->wait_done && call->state.done)) pthread_cond_broadcast(&call->changed);
  bool notify = call->notify, over = call->state.done;
  pthread_mutex_unlock(&call->lock);
  /* After the lock: who sees this wants it. A hint, since the call may be another one's by now. */
  if (over) atomic_store_explicit(&call->over, true, memory_order_release);
  if (told) tc_futex_wake(told);
  if (notify) tc_notice_post(key);
}

static void on_response(TRITONSERVER_InferenceResponse *response, const uint32_t flags, void *userp) {
  uint64_t key = (uint64_t)(uintptr_t)userp;
  struct tc_call *call = enter(key);
  if (!call) {
    count_stray(response);
    return;
  }
  if (call->old) {
    /* Here, where its memory came from and its successor's will: the heap and the caches like that best. And now: the
     * call is not over, so the request is there still, and this is not the last that holds the model. */
    delete_response(call->old);
    call->old = NULL;
  }
  struct tc_event event = {.response = response, .time_ns = tc_now(), .flags = flags};
  TRITONSERVER_Error *error = response ? tc_triton.InferenceResponseError(response) : NULL; /* here it is in a cache */
  event.failed = error != NULL;
  if (error) tc_response_error_done(response, error);
  struct tc_state *state = &call->state;
  if (response && state->responses++ == 0) state->first_response_ns = event.time_ns;
  if ((flags & TC_RESPONSE_FINAL) && state->finals++ == 0) state->final_ns = event.time_ns;
  state->thread = tc_thread();
  file_event(call, event);
  announce(call, key);
}

static void on_release(TRITONSERVER_InferenceRequest *request, const uint32_t flags, void *userp) {
  (void)request;
  uint64_t key = (uint64_t)(uintptr_t)userp;
  struct tc_call *call = enter(key);
  if (!call) {
    count_stray(NULL);
    return;
  }
  struct tc_state *state = &call->state;
  if (flags & TC_RELEASE_ALL) {
    /* In a group the last part goes unseen if the answer is whole: nobody asks when it came. */
    bool unseen = call->group && state->finals && state->responses == 1;
    if (state->releases++ == 0 && !unseen) state->release_ns = tc_now();
  } else {
    state->reschedules++; /* still Triton's: it will be executed again */
  }
  state->thread = tc_thread();
  announce(call, key);
}

/* Forgets the call, whose lock is held, and let go. Responses that nobody took are deleted; later ones are strays. */
static void close_call(struct tc_call *call) {
  call->key = 0;
  _Atomic uint32_t *told = call->group ? leave_group(call) : NULL;
  if (call->wait_any || call->wait_done) pthread_cond_broadcast(&call->changed);
  pthread_mutex_unlock(&call->lock);
  if (told) tc_futex_wake(told);
  /* Without a key nobody else looks any further, until it is put back. */
  if (call->old) delete_response(call->old);
  call->old = NULL;
  for (; call->head < call->tail; call->head++)
    if (call->events[call->head].response) delete_response(call->events[call->head].response);
  if (call->capacity > EVENTS) {
    free(call->events);
    call->events = call->few;
    call->capacity = TC_FEW;
  }
  if (call->inbox) tc_inbox_drop(call->inbox);
  call->inbox = NULL;
}

/* One that was prepared and not submitted. */
void tc_call_close_prepared(struct tc_call *call) {
  pthread_mutex_lock(&call->lock);
  close_call(call);
}

void tc_call_close(uint64_t key) {
  struct tc_call *call = enter(key);
  if (!call) return;
  close_call(call);
  tc_calls_put_back(&call, 1);
}

/* Opens the call and sets the request's callbacks; tc_call_submit is to follow. On success `*key` names the call from now
 * on; else the call is as it was before, and has left its group. `old`, an earlier response to this request, goes when
 * the new one comes. */
TRITONSERVER_Error *tc_call_prepare(
    struct tc_call *call, TRITONSERVER_InferenceRequest *request, TRITONSERVER_ResponseAllocator *allocator,
    void *allocator_userp, struct tc_inbox *inbox, struct tc_group *group, TRITONSERVER_InferenceResponse *old,
    uint64_t *key) {
  if (inbox) tc_inbox_hold(inbox);
  pthread_mutex_lock(&call->lock);
  uint64_t mine = call->key = call->next_key;
  call->next_key += UINT64_C(1) << TC_NUMBER_BITS;
  call->notify = false;
  call->inbox = inbox;
  call->group = group;
  call->old = old;
  call->allocator = allocator;
  call->state = (struct tc_state){0};
  atomic_store_explicit(&call->over, false, memory_order_relaxed);
  pthread_mutex_unlock(&call->lock);

  void *userp = (void *)(uintptr_t)mine;
  TRITONSERVER_Error *error = tc_triton.InferenceRequestSetReleaseCallback(request, on_release, userp);
  if (!error)
    error = tc_triton.InferenceRequestSetResponseCallback(request, allocator, allocator_userp, on_response, userp);
  if (error) tc_call_close_prepared(call);
  *key = error ? 0 : mine;
  return error;
}

/* When Triton refuses it, the call is as it was before it was prepared. */
TRITONSERVER_Error *tc_call_submit(
    struct tc_call *call, TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request,
    TRITONSERVER_InferenceTrace *trace) {
  call->state.start_ns = tc_now(); /* without the lock: no callback comes before, and nobody else has the key */
  TRITONSERVER_Error *error = tc_triton.ServerInferAsync(server, request, trace);
  if (error) tc_call_close_prepared(call); /* the callbacks that are set name a call that is over */
  return error;
}

TRITONSERVER_Error *tc_call_begin(
    struct tc_call *call, TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request,
    TRITONSERVER_ResponseAllocator *allocator, void *allocator_userp, TRITONSERVER_InferenceTrace *trace,
    struct tc_inbox *inbox, TRITONSERVER_InferenceResponse *old, uint64_t *key) {
  TRITONSERVER_Error *error = tc_call_prepare(call, request, allocator, allocator_userp, inbox, NULL, old, key);
  if (!error) error = tc_call_submit(call, server, request, trace);
  if (error) *key = 0;
  return error;
}

/* On success `*key` names the call. */
TRITONSERVER_Error *tc_call_start(
    TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request, TRITONSERVER_ResponseAllocator *allocator,
    void *allocator_userp, TRITONSERVER_InferenceTrace *trace, uint64_t *key) {
  struct tc_call *call;
  *key = 0;
  if (!tc_calls_reserve(&call, 1)) return tc_calls_exhausted();
  TRITONSERVER_Error *error =
      tc_call_begin(call, server, request, allocator, allocator_userp, trace, NULL, NULL, key);
  if (error) tc_calls_put_back(&call, 1);
  return error;
}

TRITONSERVER_Error *tc_calls_exhausted(void) {
  return tc_triton.ErrorNew(TC_ERROR_UNAVAILABLE, "out of memory for calls");
}

static bool is_met(const struct tc_call *call, uint64_t key, int until_done) {
  return call->key == key && (call->state.done || (!until_done && call->head != call->tail));
}

/* Waits until it is met, the call is closed, or the time is over; the call's lock is held. */
static bool wait_for(struct tc_call *call, uint64_t key, int until_done, int64_t timeout_ns) {
  if (is_met(call, key, until_done) || timeout_ns == 0) return is_met(call, key, until_done);
  int64_t deadline = tc_deadline_after(timeout_ns);
  uint32_t *waiters = until_done ? &call->wait_done : &call->wait_any;
  (*waiters)++;
  while (call->key == key && !is_met(call, key, until_done))
    if (!tc_wait_until(&call->changed, &call->lock, deadline)) break;
  (*waiters)--;
  return is_met(call, key, until_done);
}

/* Those that are not done leave their group, which nobody waits for any more; no answer comes from now on. */
void tc_calls_ungroup(struct tc_call **calls, size_t count) {
  for (size_t i = 0; i < count; i++) {
    pthread_mutex_lock(&calls[i]->lock);
    calls[i]->group = NULL;
    pthread_mutex_unlock(&calls[i]->lock);
  }
}

/* Waits, and takes the response when the answer is whole: all has come, and one response was in it, which nobody took.
 * The call is closed then. Says whether. */
bool tc_call_take_answer(struct tc_call *call, uint64_t key, int64_t timeout_ns, struct tc_answer *answer) {
  pthread_mutex_lock(&call->lock);
  bool whole = wait_for(call, key, 1, timeout_ns) && take_whole(call, answer);
  if (call->key == key) answer->thread = call->state.thread;
  if (whole)
    close_call(call);
  else
    pthread_mutex_unlock(&call->lock);
  return whole;
}

/* Waits until an event can be taken, or the call is done, or (until_done) only the latter. Fills `state`.
 * Returns 1 when what was waited for is there, 0 when the time is over, -1 when there is no such call. */
int tc_call_wait(uint64_t key, int64_t timeout_ns, int until_done, struct tc_state *state) {
  struct tc_call *call = enter(key);
  if (!call) return -1;
  int met = wait_for(call, key, until_done, timeout_ns);
  if (call->key == key) {
    *state = call->state;
    state->waiting = call->tail - call->head;
  } else {
    met = -1;
  }
  pthread_mutex_unlock(&call->lock);
  return met;
}

/* Takes the oldest event; the response is then the caller's. Returns 1, or 0 when none waits, -1: no such call. */
int tc_call_take(uint64_t key, struct tc_event *event) {
  struct tc_call *call = enter(key);
  if (!call) return -1;
  int taken = call->head != call->tail;
  if (taken) *event = call->events[call->head++];
  pthread_mutex_unlock(&call->lock);
  return taken;
}

/* From now on every event of this call posts a notice; one is posted at once, for what came before. */
int tc_call_notify(uint64_t key) {
  struct tc_call *call = enter(key);
  if (!call) return -1;
  call->notify = true;
  pthread_mutex_unlock(&call->lock);
  tc_notice_post(key);
  return 0;
}

/* Calls that are open now, and events that came for calls already closed. */
void tc_calls_count(uint64_t *open, uint64_t *stray) {
  *open = tc_calls_out();
  *stray = atomic_load(&strays);
}
