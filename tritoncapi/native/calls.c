/* Calls: one execution of a request, from ServerInferAsync to its final response and its release.
 *
 * Triton's callbacks arrive on its own threads. They must not wait for Python's interpreter lock, so they end here: a
 * callback files its event under the call's key and wakes whoever waits. Keys are never reused, so an answer that comes
 * after the call was closed (a backend that answers twice) finds nothing, is counted as a stray and deleted. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

struct call {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint64_t key;
  uint32_t references; /* guarded by the table's lock */
  bool notify;
  bool closed;
  uint32_t wait_any, wait_done; /* who waits for an event, and who for the end alone */
  struct tc_state state;
  struct tc_event *events; /* events[head, tail) wait to be taken */
  size_t head, tail, capacity;
  struct call *next; /* in its bucket */
};

enum { BUCKETS = 1024 }; /* a power of two; keys are consecutive, so they spread evenly */

static struct {
  pthread_mutex_t lock;
  struct call *buckets[BUCKETS];
  uint64_t last_key;
  uint64_t open;
  uint64_t strays;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Keys of calls that asked for notices and on which something happened; drained by the one dispatcher thread. */
static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool ready;
  uint64_t *keys;
  size_t head, tail, capacity;
} notices = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void init_condition(pthread_cond_t *condition) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

/* Waits until signalled or until `deadline` (ns, CLOCK_MONOTONIC; negative: for ever). False when the time is over. */
static bool wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, int64_t deadline) {
  if (deadline < 0) {
    pthread_cond_wait(condition, lock);
    return true;
  }
  struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};
  return pthread_cond_timedwait(condition, lock, &until) == 0;
}

static int64_t deadline_after(int64_t timeout_ns) { return timeout_ns < 0 ? -1 : tc_now() + timeout_ns; }

static struct call *find(uint64_t key) {
  pthread_mutex_lock(&table.lock);
  struct call *call = table.buckets[key % BUCKETS];
  while (call && call->key != key) call = call->next;
  if (call) call->references++;
  pthread_mutex_unlock(&table.lock);
  return call;
}

static void put_back(struct call *call) {
  pthread_mutex_lock(&table.lock);
  bool last = --call->references == 0;
  pthread_mutex_unlock(&table.lock);
  if (!last) return;
  pthread_cond_destroy(&call->changed);
  pthread_mutex_destroy(&call->lock);
  free(call->events);
  free(call);
}

static void delete_response(TRITONSERVER_InferenceResponse *response) {
  if (!response) return;
  TRITONSERVER_Error *error = tc_triton.InferenceResponseDelete(response);
  if (error) tc_triton.ErrorDelete(error);
}

static void count_stray(TRITONSERVER_InferenceResponse *response) {
  pthread_mutex_lock(&table.lock);
  table.strays++;
  pthread_mutex_unlock(&table.lock);
  delete_response(response);
}

static void post_notice(uint64_t key) {
  pthread_mutex_lock(&notices.lock);
  if (notices.head == notices.tail) notices.head = notices.tail = 0;
  if (notices.tail == notices.capacity && notices.head > notices.capacity / 2) {
    memmove(notices.keys, notices.keys + notices.head, (notices.tail - notices.head) * sizeof *notices.keys);
    notices.tail -= notices.head;
    notices.head = 0;
  }
  if (notices.tail == notices.capacity) {
    size_t capacity = notices.capacity ? 2 * notices.capacity : 256;
    uint64_t *keys = realloc(notices.keys, capacity * sizeof *keys);
    if (!keys) abort(); /* losing a completion would hang its waiter for ever */
    notices.keys = keys;
    notices.capacity = capacity;
  }
  notices.keys[notices.tail++] = key;
  if (notices.ready) pthread_cond_signal(&notices.changed);
  pthread_mutex_unlock(&notices.lock);
}

static void file_event(struct call *call, struct tc_event event) {
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
static void announce(struct call *call) {
  call->state.done = call->state.finals && call->state.releases;
  if (call->wait_any || (call->wait_done && call->state.done)) pthread_cond_broadcast(&call->changed);
}

static void on_response(TRITONSERVER_InferenceResponse *response, const uint32_t flags, void *userp) {
  uint64_t key = (uint64_t)(uintptr_t)userp;
  struct call *call = find(key);
  if (!call) {
    count_stray(response);
    return;
  }
  struct tc_event event = {.response = response, .time_ns = tc_now(), .flags = flags};
  pthread_mutex_lock(&call->lock);
  if (call->closed) {
    pthread_mutex_unlock(&call->lock);
    count_stray(response);
    put_back(call);
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
  if (notify) post_notice(key);
  put_back(call);
}

static void on_release(TRITONSERVER_InferenceRequest *request, const uint32_t flags, void *userp) {
  (void)request;
  uint64_t key = (uint64_t)(uintptr_t)userp;
  struct call *call = find(key);
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
  if (notify) post_notice(key);
  put_back(call);
}

static void remove_from_table(struct call *call) {
  pthread_mutex_lock(&table.lock);
  struct call **link = &table.buckets[call->key % BUCKETS];
  while (*link && *link != call) link = &(*link)->next;
  if (*link) {
    *link = call->next;
    call->references--; /* the table's own; the caller holds another */
    table.open--;
  }
  pthread_mutex_unlock(&table.lock);
}

/* Forgets the call, and the caller's reference. Responses that nobody took are deleted; later ones are strays. */
static void close_call(struct call *call) {
  remove_from_table(call);
  pthread_mutex_lock(&call->lock);
  call->closed = true;
  size_t head = call->head, tail = call->tail;
  call->head = call->tail = 0;
  if (call->wait_any || call->wait_done) pthread_cond_broadcast(&call->changed);
  pthread_mutex_unlock(&call->lock);
  for (; head < tail; head++) delete_response(call->events[head].response);
  put_back(call);
}

void tc_call_close(uint64_t key) {
  struct call *call = find(key);
  if (call) close_call(call);
}

/* Sets both callbacks and submits the request. On success `*started` is the call with a reference for the caller; else
 * it is NULL and nothing was kept. */
static TRITONSERVER_Error *start(
    TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request, TRITONSERVER_ResponseAllocator *allocator,
    void *allocator_userp, TRITONSERVER_InferenceTrace *trace, struct call **started) {
  *started = NULL;
  struct call *call = calloc(1, sizeof *call);
  if (!call) return tc_triton.ErrorNew(TC_ERROR_INTERNAL, "out of memory for a call");
  pthread_mutex_init(&call->lock, NULL);
  init_condition(&call->changed);
  call->references = 2; /* the table's and the caller's */
  call->state.start_ns = tc_now();

  /* Registered before it is submitted: the answer may come before ServerInferAsync returns. */
  pthread_mutex_lock(&table.lock);
  uint64_t mine = call->key = ++table.last_key;
  struct call **bucket = &table.buckets[mine % BUCKETS];
  call->next = *bucket;
  *bucket = call;
  table.open++;
  pthread_mutex_unlock(&table.lock);

  void *userp = (void *)(uintptr_t)mine;
  TRITONSERVER_Error *error = tc_triton.InferenceRequestSetReleaseCallback(request, on_release, userp);
  if (!error)
    error = tc_triton.InferenceRequestSetResponseCallback(request, allocator, allocator_userp, on_response, userp);
  if (!error) error = tc_triton.ServerInferAsync(server, request, trace);
  if (error)
    close_call(call);
  else
    *started = call;
  return error;
}

/* On success `*key` names the call. */
TRITONSERVER_Error *tc_call_start(
    TRITONSERVER_Server *server, TRITONSERVER_InferenceRequest *request, TRITONSERVER_ResponseAllocator *allocator,
    void *allocator_userp, TRITONSERVER_InferenceTrace *trace, uint64_t *key) {
  struct call *call;
  TRITONSERVER_Error *error = start(server, request, allocator, allocator_userp, trace, &call);
  *key = error ? 0 : call->key;
  if (!error) put_back(call);
  return error;
}

static bool is_met(const struct call *call, int until_done) {
  return call->state.done || (!until_done && call->head != call->tail);
}

/* Waits until it is met, the call is closed, or the time is over; the call's lock is held. */
static bool wait_for(struct call *call, int until_done, int64_t timeout_ns) {
  if (is_met(call, until_done) || timeout_ns == 0) return is_met(call, until_done);
  int64_t deadline = deadline_after(timeout_ns);
  uint32_t *waiters = until_done ? &call->wait_done : &call->wait_any;
  (*waiters)++;
  while (!is_met(call, until_done) && !call->closed)
    if (!wait_until(&call->changed, &call->lock, deadline)) break;
  (*waiters)--;
  return is_met(call, until_done);
}

/* Waits until an event can be taken, or the call is done, or (until_done) only the latter. Fills `state`.
 * Returns 1 when what was waited for is there, 0 when the time is over, -1 when there is no such call. */
int tc_call_wait(uint64_t key, int64_t timeout_ns, int until_done, struct tc_state *state) {
  struct call *call = find(key);
  if (!call) return -1;
  pthread_mutex_lock(&call->lock);
  int met = wait_for(call, until_done, timeout_ns);
  *state = call->state;
  state->waiting = (uint32_t)(call->tail - call->head);
  if (call->closed) met = -1;
  pthread_mutex_unlock(&call->lock);
  put_back(call);
  return met;
}

/* One request in one call from Python: submitted, waited for, answered. */
struct tc_run {
  TRITONSERVER_Server *server;
  TRITONSERVER_InferenceRequest *request;
  TRITONSERVER_ResponseAllocator *allocator;
  void *allocator_userp;
  TRITONSERVER_InferenceTrace *trace;
  int64_t timeout_ns;
  /* Results */
  uint64_t key; /* of the call while it is out, and when this is not the whole answer: the caller goes on; else 0 */
  TRITONSERVER_InferenceResponse *response;
  int64_t time_ns, thread;
  uint32_t final, failed; /* flags of the response: the last one; it stands for an error */
};

static TRITONSERVER_Error *begin_run(struct tc_run *run, struct call **call) {
  run->key = 0;
  run->response = NULL;
  TRITONSERVER_Error *error = start(run->server, run->request, run->allocator, run->allocator_userp, run->trace, call);
  if (!error) __atomic_store_n(&run->key, (*call)->key, __ATOMIC_RELEASE); /* other threads may cancel it from now on */
  return error;
}

static void end_run(struct tc_run *run, struct call *call, int64_t timeout_ns) {
  pthread_mutex_lock(&call->lock);
  wait_for(call, 1, timeout_ns);
  bool whole = call->state.done && call->state.responses == 1;
  run->thread = call->state.thread;
  for (size_t i = call->head; whole && i < call->tail; i++) {
    struct tc_event *event = &call->events[i];
    if (!event->response) continue;
    run->response = event->response;
    run->time_ns = event->time_ns;
    run->final = event->flags & TC_RESPONSE_FINAL;
    event->response = NULL;
  }
  pthread_mutex_unlock(&call->lock);
  if (!whole) {
    put_back(call);
    return;
  }
  __atomic_store_n(&run->key, 0, __ATOMIC_RELEASE);
  run->failed = tc_triton.InferenceResponseError(run->response) != NULL;
  close_call(call);
}

/* Returns what Triton refused it with, or NULL. When all has come in time, and one response was in it, then that is the
 * caller's and the call is closed. */
TRITONSERVER_Error *tc_call_run(struct tc_run *run) {
  struct call *call;
  TRITONSERVER_Error *error = begin_run(run, &call);
  if (!error) end_run(run, call, run->timeout_ns);
  return error;
}

/* What became of one of many. */
struct tc_answer {
  TRITONSERVER_InferenceResponse *response; /* NULL: the run goes on under its key, or was not submitted */
  int64_t time_ns;
  uint32_t final, failed;
};

/* The same for many: all are submitted before one is waited for. Returns what Triton refused one with; the later ones
 * are then not submitted, those before it are answered as usual. `*submitted` says how many, `*unfinished` how many of
 * them go on. */
TRITONSERVER_Error *tc_call_run_many(
    struct tc_run **runs, struct tc_answer *answers, size_t count, int64_t timeout_ns, size_t *submitted,
    size_t *unfinished) {
  struct call **calls = malloc((count ? count : 1) * sizeof *calls);
  *submitted = *unfinished = 0;
  if (!calls) return tc_triton.ErrorNew(TC_ERROR_UNAVAILABLE, "out of memory for calls");
  int64_t deadline = deadline_after(timeout_ns);
  TRITONSERVER_Error *error = NULL;
  size_t begun = 0;
  while (begun < count && !(error = begin_run(runs[begun], &calls[begun]))) begun++;
  /* The last one first: when it is done the others mostly are, so there is one wake-up, not one for each. */
  for (size_t i = begun; i-- > 0;) {
    int64_t left = deadline < 0 ? -1 : deadline - tc_now();
    struct tc_run *run = runs[i];
    end_run(run, calls[i], deadline >= 0 && left < 0 ? 0 : left);
    answers[i] = (struct tc_answer){run->response, run->time_ns, run->final, run->failed};
    run->response = NULL;
    *unfinished += run->key != 0;
  }
  free(calls);
  *submitted = begun;
  return error;
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

/* Takes the oldest event; the response is then the caller's. Returns 1, or 0 when none waits, -1: no such call. */
int tc_call_take(uint64_t key, struct tc_event *event) {
  struct call *call = find(key);
  if (!call) return -1;
  pthread_mutex_lock(&call->lock);
  int taken = call->head != call->tail;
  if (taken) *event = call->events[call->head++];
  pthread_mutex_unlock(&call->lock);
  put_back(call);
  return taken;
}

/* From now on every event of this call posts a notice; one is posted at once, for what came before. */
int tc_call_notify(uint64_t key) {
  struct call *call = find(key);
  if (!call) return -1;
  pthread_mutex_lock(&call->lock);
  call->notify = true;
  pthread_mutex_unlock(&call->lock);
  post_notice(key);
  put_back(call);
  return 0;
}

/* Copies up to `limit` keys on which something happened; waits for the first. A key may come more than once.
 * Returns how many. */
size_t tc_notices_take(uint64_t *keys, size_t limit, int64_t timeout_ns) {
  int64_t deadline = deadline_after(timeout_ns);
  pthread_mutex_lock(&notices.lock);
  if (!notices.ready) {
    init_condition(&notices.changed);
    notices.ready = true;
  }
  while (notices.head == notices.tail && timeout_ns != 0)
    if (!wait_until(&notices.changed, &notices.lock, deadline)) break;
  size_t count = notices.tail - notices.head;
  if (count > limit) count = limit;
  if (count) memcpy(keys, notices.keys + notices.head, count * sizeof *keys);
  notices.head += count;
  pthread_mutex_unlock(&notices.lock);
  return count;
}

/* Calls that are open now, and events that came for calls already closed. */
void tc_calls_count(uint64_t *open, uint64_t *strays) {
  pthread_mutex_lock(&table.lock);
  *open = table.open;
  *strays = table.strays;
  pthread_mutex_unlock(&table.lock);
}
