/* A worker of a traffic: one thread that sends its slots' requests when they are due, and counts what came back. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <math.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "traffic.h"

static const int64_t SECOND = 1000000000;
static const int64_t NAP_NS = 10000000;      /* the longest time in which nobody looks at what came back */
enum { DRAWN = 1000000 }; /* of unsent requests, one by one */
static const int64_t CANCEL_GRACE = 1000000000; /* for requests that were cancelled because nothing came back */

/* Ids of sequences: apart from the small ones that people choose, and within 31 bits for models that take an INT32. */
static _Atomic uint64_t last_correlation = 0x40000000;

void tc_worker_wake(struct tc_worker *worker, int from) {
  if (atomic_compare_exchange_strong(&worker->asleep, &from, TC_AWAKE))
    syscall(SYS_futex, &worker->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Makes the worker look at the traffic's state, however it sleeps. */
void tc_worker_poke(struct tc_worker *worker) {
  atomic_fetch_add(&worker->pokes, 1);
  tc_worker_wake(worker, TC_ASLEEP);
  tc_worker_wake(worker, TC_NAPPING);
}

/* False when it was over already. */
bool tc_traffic_end(struct tc_traffic *traffic, enum tc_ending why) {
  int running = TC_RUNNING;
  if (!atomic_compare_exchange_strong(&traffic->ending, &running, (int)why)) return false;
  for (uint32_t i = 0; i < traffic->options.threads; i++) tc_worker_poke(&traffic->workers[i]);
  return true;
}

/* Other workers say so too; the last time counts. */
void tc_traffic_ended_at(struct tc_traffic *traffic, int64_t time_ns) {
  long long seen = atomic_load_explicit(&traffic->last_ns, memory_order_relaxed);
  while (time_ns > seen && !atomic_compare_exchange_weak(&traffic->last_ns, &seen, time_ns)) continue;
}

static void sleep_until(struct tc_worker *worker, int how, int64_t deadline_ns) {
  atomic_store(&worker->asleep, how);
  bool came = how == TC_ASLEEP && atomic_load(&worker->done);
  if (!came && atomic_load(&worker->pokes) == worker->seen_pokes) {
    struct timespec until = {.tv_sec = deadline_ns / SECOND, .tv_nsec = deadline_ns % SECOND};
    syscall(SYS_futex, &worker->asleep, FUTEX_WAIT_BITSET_PRIVATE, how, &until, NULL, FUTEX_BITSET_MATCH_ANY);
  }
  atomic_store(&worker->asleep, TC_AWAKE);
}

/* 0 up to, not including, 1: xorshift64*. */
static double random_share(struct tc_worker *worker) {
  worker->random ^= worker->random >> 12;
  worker->random ^= worker->random << 25;
  worker->random ^= worker->random >> 27;
  return (double)((worker->random * UINT64_C(0x2545F4914F6CDD1D)) >> 11) * 0x1p-53;
}

/* Counting what came back */

static void look_at_errors(struct tc_traffic *traffic, uint64_t ended, uint64_t failed) {
  ended += atomic_fetch_add(&traffic->ended, ended);
  failed += atomic_fetch_add(&traffic->failed, failed);
  if (ended < traffic->options.least_for_errors) return;
  if ((double)failed > traffic->options.max_error_rate * (double)ended) tc_traffic_end(traffic, TC_ENDED_ERRORS);
}

static void collect(struct tc_worker *worker, int64_t now) {
  if (!atomic_load_explicit(&worker->done, memory_order_relaxed)) return;
  struct tc_slot *slot = atomic_exchange_explicit(&worker->done, NULL, memory_order_acquire);
  uint64_t ended = 0, failed = 0;
  int64_t last_ns = 0;
  pthread_mutex_lock(&worker->lock);
  for (struct tc_slot *next; slot; slot = next) {
    next = slot->next;
    tc_tally_end(worker, slot);
    ended++;
    failed += slot->code >= 0;
    if (slot->measured && slot->final_ns > last_ns) last_ns = slot->final_ns;
    atomic_store_explicit(&slot->state, 0, memory_order_relaxed);
    slot->next = worker->tallies[slot->target].idle;
    worker->tallies[slot->target].idle = slot;
    worker->flying--;
  }
  pthread_mutex_unlock(&worker->lock);
  worker->moved_ns = now;
  struct tc_traffic *traffic = worker->traffic;
  tc_traffic_ended_at(traffic, last_ns);
  if (traffic->options.max_error_rate <= 1) look_at_errors(traffic, ended, failed);
}

/* Sending */

/* Somebody may read the counter meanwhile; nobody else writes it. */
static void bump(uint64_t *counter) { __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED); }

static void cancel(struct tc_slot *slot) {
  if (!tc_triton.InferenceRequestCancel) return;
  slot->cancelled = true;
  TRITONSERVER_Error *error = tc_triton.InferenceRequestCancel(slot->request);
  if (error) tc_triton.ErrorDelete(error); /* it was answered in this moment */
}

static TRITONSERVER_Error *begin_step(struct tc_slot *slot, struct tc_tally *tally) {
  uint32_t flags = slot->last ? TC_SEQUENCE_END : 0;
  if (slot->step == 0) {
    flags |= TC_SEQUENCE_START;
    slot->correlation = atomic_fetch_add(&last_correlation, 1) + 1;
    bump(&tally->counts.sequences);
    TRITONSERVER_Error *error = tc_triton.InferenceRequestSetCorrelationId(slot->request, slot->correlation);
    if (error) return error;
  }
  return tc_triton.InferenceRequestSetFlags(slot->request, flags);
}

static void refuse(struct tc_worker *worker, struct tc_slot *slot, TRITONSERVER_Error *error) {
  struct tc_traffic *traffic = worker->traffic;
  struct tc_tally *tally = &worker->tallies[slot->target];
  int code = tc_error_code(error);
  tc_traffic_note_message(traffic, code, tc_triton.ErrorMessage(error));
  tc_triton.ErrorDelete(error);
  pthread_mutex_lock(&worker->lock);
  tc_tally_refusal(worker, slot, code);
  pthread_mutex_unlock(&worker->lock);
  atomic_store_explicit(&slot->state, 0, memory_order_relaxed);
  slot->step = 0;
  slot->next = tally->idle;
  tally->idle = slot;
  if (traffic->options.max_error_rate <= 1) look_at_errors(traffic, 1, 1);
}

/* Returns false when Triton refused it. */
static bool send_slot(struct tc_worker *worker, struct tc_slot *slot, int64_t due_ns, bool measured, bool last) {
  struct tc_traffic *traffic = worker->traffic;
  const struct tc_target_options *target = &traffic->targets[slot->target];
  struct tc_tally *tally = &worker->tallies[slot->target];
  slot->code = -1;
  slot->responses = 0;
  slot->measured = measured;
  slot->keep = measured && traffic->options.check_every && worker->kept_of++ % traffic->options.check_every == 0;
  slot->last = last || slot->step + 1 >= target->sequence_length;
  TRITONSERVER_Error *error = slot->cancelled ? tc_slot_arm(slot, target) : NULL;
  if (!error && target->sequence_length) error = begin_step(slot, tally);
  slot->submit_ns = tc_now();
  slot->intended_ns = due_ns ? due_ns : slot->submit_ns;
  atomic_store_explicit(&slot->state, TC_SLOT_FLYING, memory_order_release);
  if (!error) error = tc_triton.ServerInferAsync(traffic->server, slot->request, NULL);
  if (error) {
    refuse(worker, slot, error);
    return false;
  }
  /* From here on the slot may be done already; the request is ours alone to send or delete, so it can be cancelled. */
  bump(&tally->counts.submitted);
  worker->flying++;
  if (target->cancel_rate > 0 && random_share(worker) < target->cancel_rate) {
    bump(&tally->counts.cancels);
    cancel(slot);
  }
  return true;
}

/* A slot with nothing in flight; NULL when all of the chosen target's are out. */
static struct tc_slot *take_idle(struct tc_worker *worker) {
  struct tc_traffic *traffic = worker->traffic;
  uint32_t chosen = 0;
  if (traffic->options.targets > 1) {
    double left = random_share(worker) * traffic->weights;
    while (chosen + 1 < traffic->options.targets && left >= traffic->targets[chosen].weight)
      left -= traffic->targets[chosen++].weight;
  }
  struct tc_slot *slot = worker->tallies[chosen].idle;
  if (slot) worker->tallies[chosen].idle = slot->next;
  return slot;
}

/* Begins to measure when the warm-up is over. Says whether a request that starts now is measured. */
static bool is_measured(struct tc_traffic *traffic, int64_t now) {
  int64_t from = atomic_load_explicit(&traffic->measure_ns, memory_order_relaxed);
  /* In a closed loop `now` may be a moment old, and another worker's beginning younger. */
  if (from) return traffic->options.rate > 0 ? now >= from : true;
  if (now - traffic->begin_ns < traffic->options.warmup_ns) return false;
  if (atomic_fetch_add(&traffic->warm_tickets, 1) < traffic->options.warmup_requests) return false;
  long long none = 0;
  atomic_compare_exchange_strong(&traffic->measure_ns, &none, now);
  return true;
}

static int64_t due_at(struct tc_worker *worker) {
  const struct tc_traffic_options *options = &worker->traffic->options;
  double seconds = options->poisson ? worker->due_s
                                    : ((double)worker->sent * options->threads + worker->index) / options->rate;
  return worker->traffic->begin_ns + (int64_t)(seconds * 1e9);
}

static void next_due(struct tc_worker *worker) {
  const struct tc_traffic_options *options = &worker->traffic->options;
  worker->sent++;
  if (options->poisson) worker->due_s -= log(1 - random_share(worker)) * options->threads / options->rate;
}

/* When the measured time is over; INT64_MAX without a limit, or while it has not begun. */
static int64_t end_ns(struct tc_traffic *traffic) {
  int64_t from = atomic_load_explicit(&traffic->measure_ns, memory_order_relaxed);
  return from && traffic->options.duration_ns ? from + traffic->options.duration_ns : INT64_MAX;
}

/* Sends what is due. Returns until when there is nothing more to send. */
static int64_t send_due(struct tc_worker *worker, int64_t now) {
  struct tc_traffic *traffic = worker->traffic;
  const struct tc_traffic_options *options = &traffic->options;
  bool open = options->rate > 0;
  while (worker->flying < worker->concurrency) {
    int64_t end = end_ns(traffic), due = open ? due_at(worker) : 0;
    if (now >= end) tc_traffic_end(traffic, TC_ENDED_DURATION);
    if (atomic_load_explicit(&traffic->ending, memory_order_relaxed)) return INT64_MAX;
    if (open && due >= end) return end;
    if (open && due > now) return due;
    bool measured = is_measured(traffic, open ? due : now);
    if (measured && options->requests && atomic_fetch_add(&traffic->tickets, 1) >= options->requests) {
      worker->exhausted = true;
      tc_traffic_end(traffic, TC_ENDED_REQUESTS);
      return INT64_MAX;
    }
    struct tc_slot *slot = take_idle(worker);
    if (!slot) abort(); /* each target has as many slots as the worker may have in flight */
    bool taken = send_slot(worker, slot, due, measured, false);
    worker->moved_ns = now;
    if (open) next_due(worker);
    if (open || !taken) now = tc_now();
  }
  return end_ns(traffic);
}

/* Counts what was due before the end and was never sent: its latencies are missing. */
static void count_unsent(struct tc_worker *worker) {
  struct tc_traffic *traffic = worker->traffic;
  int64_t end = end_ns(traffic), now = tc_now();
  if (!(traffic->options.rate > 0) || worker->exhausted) return;
  if (end > now) end = now;
  uint64_t *unsent = &worker->tallies[0].counts.unsent;
  for (int i = 0; i < DRAWN && due_at(worker) < end; i++, next_due(worker)) ++*unsent;
  /* So many that it does not matter which: as many as there are on average. */
  int64_t left_ns = end - due_at(worker);
  if (left_ns > 0) *unsent += (uint64_t)((double)left_ns / 1e9 * traffic->options.rate / traffic->options.threads);
}

/* Sequences that are open are ended, each by one more request. Model and slots are then as they were before. */
static void end_sequences(struct tc_worker *worker) {
  for (uint32_t i = 0; i < worker->traffic->options.targets; i++) {
    if (!worker->traffic->targets[i].sequence_length) continue;
    struct tc_slot *slot = worker->tallies[i].idle, *rest = NULL;
    worker->tallies[i].idle = NULL;
    for (struct tc_slot *next; slot; slot = next) {
      next = slot->next;
      if (slot->step) {
        send_slot(worker, slot, 0, slot->measured, true);
      } else {
        slot->next = rest;
        rest = slot;
      }
    }
    while (rest) {
      slot = rest;
      rest = slot->next;
      slot->next = worker->tallies[i].idle;
      worker->tallies[i].idle = slot;
    }
  }
}

static void cancel_all(struct tc_worker *worker) {
  if (worker->cancelled) return;
  worker->cancelled = true;
  for (struct tc_slot *slot = worker->slots; slot; slot = slot->sibling)
    if (atomic_load(&slot->state) & TC_SLOT_FLYING) cancel(slot);
}

/* Cancels what does not come back, then gives it up. */
static bool given_up(struct tc_worker *worker, int64_t now, int64_t *wake) {
  struct tc_traffic *traffic = worker->traffic;
  int64_t patience = traffic->options.patience_ns;
  if (!worker->flying) return false;
  if (now - worker->moved_ns >= patience) {
    tc_traffic_end(traffic, TC_ENDED_STALLED);
    cancel_all(worker);
    if (now - worker->moved_ns >= patience + CANCEL_GRACE) return true;
    patience += CANCEL_GRACE;
  }
  if (worker->moved_ns + patience < *wake) *wake = worker->moved_ns + patience;
  return false;
}

static void begin(struct tc_worker *worker) {
  prctl(PR_SET_TIMERSLACK, 1); /* ns; else the kernel is 50 us late on purpose */
  pthread_setname_np(pthread_self(), "tc-traffic");
  worker->moved_ns = tc_now();
  const struct tc_traffic_options *options = &worker->traffic->options;
  if (options->poisson) worker->due_s = -log(1 - random_share(worker)) * options->threads / options->rate;
}

void *tc_worker_run(void *argument) {
  struct tc_worker *worker = argument;
  struct tc_traffic *traffic = worker->traffic;
  begin(worker);
  for (;;) {
    worker->seen_pokes = atomic_load(&worker->pokes);
    int64_t now = tc_now(), wake = INT64_MAX;
    collect(worker, now);
    if (!atomic_load(&traffic->ending)) wake = send_due(worker, now);
    int ending = atomic_load(&traffic->ending);
    if (ending) {
      wake = INT64_MAX;
      if (ending != TC_ENDED_STALLED) end_sequences(worker);
      if (atomic_load(&traffic->cancel)) cancel_all(worker);
      if (!worker->flying) break;
    }
    bool due_soon = wake - now < NAP_NS && worker->flying < worker->concurrency && !ending;
    if (given_up(worker, now, &wake)) break;
    if (wake == INT64_MAX) wake = now + 3600 * SECOND;
    if (!worker->flying && wake > now + SECOND) wake = now + SECOND; /* nothing would come to wake it */
    sleep_until(worker, due_soon ? TC_NAPPING : TC_ASLEEP, wake);
  }
  pthread_mutex_lock(&worker->lock);
  count_unsent(worker);
  pthread_mutex_unlock(&worker->lock);
  atomic_fetch_sub(&traffic->running, 1);
  pthread_mutex_lock(&traffic->lock);
  pthread_cond_broadcast(&traffic->changed);
  pthread_mutex_unlock(&traffic->lock);
  return NULL;
}
