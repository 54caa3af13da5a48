/* Traffic: its making, its end, and what Python reads of it. See worker.c for the loop and slot.c for the callbacks. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "traffic.h"

static void destroy(struct tc_traffic *traffic) {
  for (uint32_t i = 0; traffic->workers && i < traffic->options.threads; i++) free(traffic->workers[i].tallies);
  free(traffic->workers);
  free(traffic->targets);
  free(traffic);
}

/* NULL without memory. */
struct tc_traffic *tc_traffic_new(TRITONSERVER_Server *server, const struct tc_traffic_options *options) {
  struct tc_traffic *traffic = calloc(1, sizeof *traffic);
  if (!traffic) return NULL;
  traffic->server = server;
  traffic->options = *options;
  traffic->targets = calloc(options->targets, sizeof *traffic->targets);
  size_t size = options->threads * sizeof *traffic->workers;
  traffic->workers = aligned_alloc(_Alignof(struct tc_worker), size);
  if (traffic->workers) memset(traffic->workers, 0, size);
  bool complete = traffic->targets && traffic->workers;
  for (uint32_t i = 0; complete && i < options->threads; i++) {
    struct tc_worker *worker = &traffic->workers[i];
    worker->tallies = calloc(options->targets, sizeof *worker->tallies);
    if (!worker->tallies) complete = false;
  }
  if (!complete) {
    destroy(traffic);
    return NULL;
  }
  pthread_mutex_init(&traffic->lock, NULL);
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&traffic->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  for (uint32_t i = 0; i < options->threads; i++) {
    struct tc_worker *worker = &traffic->workers[i];
    worker->traffic = traffic;
    worker->index = i;
    /* The remainder goes to the first ones; a seed of 0 would stay 0 for ever. */
    worker->concurrency = options->concurrency / options->threads + (i < options->concurrency % options->threads);
    worker->random = (options->seed + i + 1) * UINT64_C(0x9E3779B97F4A7C15) | 1;
    pthread_mutex_init(&worker->lock, NULL);
    for (uint32_t j = 0; j < options->targets; j++) {
      struct tc_tally *tally = &worker->tallies[j];
      tc_histogram_clear(&tally->latency);
      tc_histogram_clear(&tally->naive);
      tc_histogram_clear(&tally->late);
      tc_histogram_clear(&tally->first);
      tc_histogram_clear(&tally->release);
    }
  }
  return traffic;
}

void tc_traffic_target(struct tc_traffic *traffic, uint32_t index, const struct tc_target_options *target) {
  traffic->targets[index] = *target;
  traffic->weights += target->weight;
}

uint32_t tc_traffic_share(const struct tc_traffic *traffic, uint32_t worker) {
  return traffic->workers[worker].concurrency;
}

/* Gives a worker a request of a target; needed are as many for each target as the worker's share of the concurrency.
 * NULL, and then the request is the traffic's to delete, or an error that is the caller's. */
TRITONSERVER_Error *tc_traffic_slot(
    struct tc_traffic *traffic, uint32_t worker, uint32_t target, TRITONSERVER_InferenceRequest *request,
    uint64_t inputs) {
  struct tc_slot *slot = tc_slot_new();
  if (!slot) return tc_triton.ErrorNew(TC_ERROR_UNAVAILABLE, "out of memory for a slot");
  struct tc_worker *owner = &traffic->workers[worker];
  slot->request = request;
  slot->target = target;
  slot->inputs = inputs;
  slot->worker = owner;
  TRITONSERVER_Error *error = tc_slot_arm(slot, &traffic->targets[target]);
  if (error) {
    tc_slot_give_back(slot);
    return error;
  }
  slot->sibling = owner->slots;
  owner->slots = slot;
  slot->next = owner->tallies[target].idle;
  owner->tallies[target].idle = slot;
  return NULL;
}

/* Begins. 0, or an errno when a thread cannot be made; then all is stopped, and what was sent comes back. */
int tc_traffic_start(struct tc_traffic *traffic) {
  traffic->begin_ns = tc_now();
  atomic_store(&traffic->running, traffic->options.threads);
  int failure = 0;
  for (uint32_t i = 0; i < traffic->options.threads; i++) {
    struct tc_worker *worker = &traffic->workers[i];
    pthread_mutex_lock(&worker->lock); /* who reads a report may do so before the beginning too */
    tc_series_begin(&worker->series, traffic->begin_ns);
    pthread_mutex_unlock(&worker->lock);
    if (!failure) failure = pthread_create(&worker->thread, NULL, tc_worker_run, worker);
    worker->started = !failure;
    if (failure) atomic_fetch_sub(&traffic->running, 1);
  }
  if (failure) tc_traffic_end(traffic, TC_ENDED_STOPPED);
  return failure;
}

/* Sends no more. What is out comes back; with `cancel` sooner. */
void tc_traffic_stop(struct tc_traffic *traffic, int cancel) {
  if (cancel) atomic_store(&traffic->cancel, true);
  if (tc_traffic_end(traffic, TC_ENDED_STOPPED) || !cancel) return;
  for (uint32_t i = 0; i < traffic->options.threads; i++) tc_worker_poke(&traffic->workers[i]);
}

void tc_traffic_note_message(struct tc_traffic *traffic, int code, const char *message) {
  if (atomic_load_explicit(&traffic->has_message[code], memory_order_relaxed)) return;
  pthread_mutex_lock(&traffic->lock);
  if (!atomic_load(&traffic->has_message[code])) snprintf(traffic->messages[code], TC_MESSAGE, "%s", message);
  atomic_store(&traffic->has_message[code], true);
  pthread_mutex_unlock(&traffic->lock);
}

/* Waits for a sample, or for the end. Returns 1 with a sample, which is then the caller's; 2 at the end, when no sample
 * waits; 0 when the time is over. */
int tc_traffic_wait(struct tc_traffic *traffic, int64_t timeout_ns, struct tc_sample *sample) {
  int64_t deadline = tc_now() + timeout_ns;
  struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};
  int found = 0;
  pthread_mutex_lock(&traffic->lock);
  for (bool late = timeout_ns == 0;; late = pthread_cond_timedwait(&traffic->changed, &traffic->lock, &until) != 0) {
    if (traffic->sample_count) {
      *sample = traffic->samples[traffic->first_sample];
      traffic->first_sample = (traffic->first_sample + 1) % TC_SAMPLES;
      traffic->sample_count--;
      found = 1;
    } else if (!atomic_load(&traffic->running)) {
      found = 2;
    }
    if (found || late) break;
  }
  pthread_mutex_unlock(&traffic->lock);
  return found;
}

/* What a target did so far. */
void tc_traffic_counts(struct tc_traffic *traffic, uint32_t target, struct tc_traffic_counts *sum) {
  memset(sum, 0, sizeof *sum);
  for (uint32_t i = 0; i < traffic->options.threads; i++) {
    struct tc_worker *worker = &traffic->workers[i];
    pthread_mutex_lock(&worker->lock);
    uint64_t *into = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)&worker->tallies[target].counts;
    /* The worker counts what it sends without the lock. */
    for (size_t j = 0; j < sizeof *sum / sizeof *from; j++) into[j] += __atomic_load_n(&from[j], __ATOMIC_RELAXED);
    if (!atomic_load(&traffic->running))
      for (const struct tc_slot *slot = worker->slots; slot; slot = slot->sibling)
        if (slot->target == target && atomic_load(&slot->state) & TC_SLOT_FLYING) sum->lost++;
    pthread_mutex_unlock(&worker->lock);
  }
}

/* Adds a target's histogram: 0 latency from the intended start, 1 from the real one, 2 first response, 3 release,
 * 4 how late it was sent. */
void tc_traffic_histogram(struct tc_traffic *traffic, uint32_t target, int which, struct tc_histogram *into) {
  for (uint32_t i = 0; i < traffic->options.threads; i++) {
    struct tc_tally *tally = &traffic->workers[i].tallies[target];
    struct tc_histogram *const all[] = {&tally->latency, &tally->naive, &tally->first, &tally->release, &tally->late};
    tc_histogram_merge(into, all[which]);
  }
}

/* Makes `sum` the series of all workers together. */
void tc_traffic_series(struct tc_traffic *traffic, struct tc_series *sum) {
  tc_series_begin(sum, traffic->begin_ns);
  for (uint32_t i = 0; i < traffic->options.threads; i++) {
    pthread_mutex_lock(&traffic->workers[i].lock);
    tc_series_merge(sum, &traffic->workers[i].series);
    pthread_mutex_unlock(&traffic->workers[i].lock);
  }
}

/* Copies the ids of threads that the target answered on; `limit` of them may mean: more. */
size_t tc_traffic_threads(struct tc_traffic *traffic, uint32_t target, int64_t *threads, size_t limit) {
  size_t count = 0;
  for (uint32_t i = 0; i < traffic->options.threads; i++) {
    struct tc_worker *worker = &traffic->workers[i];
    pthread_mutex_lock(&worker->lock);
    for (size_t j = 0; j < worker->tallies[target].thread_count && count < limit; j++)
      threads[count++] = worker->tallies[target].threads[j];
    pthread_mutex_unlock(&worker->lock);
  }
  return count;
}

/* Why it ended (0: it runs), and when it began, was first measured and completed last (ns; 0: not yet). */
int tc_traffic_state(struct tc_traffic *traffic, int64_t times[3]) {
  times[0] = traffic->begin_ns;
  times[1] = atomic_load(&traffic->measure_ns);
  times[2] = atomic_load(&traffic->last_ns);
  return atomic_load(&traffic->ending);
}

/* How many of its threads have not ended. */
uint32_t tc_traffic_running(struct tc_traffic *traffic) { return atomic_load(&traffic->running); }

/* The first message of errors with this code; empty if there was none. Valid as long as the traffic is. */
const char *tc_traffic_message(struct tc_traffic *traffic, int code) {
  return atomic_load(&traffic->has_message[code]) ? traffic->messages[code] : "";
}

static void delete_request(struct tc_slot *slot) {
  unsigned state = atomic_load(&slot->state);
  if ((state & TC_SLOT_FLYING) && !(state & TC_SLOT_RELEASED)) return; /* Triton has it still, and perhaps for ever */
  TRITONSERVER_Error *error = tc_triton.InferenceRequestDelete(slot->request);
  if (error) tc_triton.ErrorDelete(error);
}

/* Waits for the threads, which must have ended (tc_traffic_wait says 2) or never begun, and frees all. Returns how many
 * slots are still out; there being any, only those and what their callbacks touch stay, for ever. */
uint64_t tc_traffic_delete(struct tc_traffic *traffic) {
  uint64_t out = 0;
  for (uint32_t i = 0; i < traffic->options.threads; i++) {
    struct tc_worker *worker = &traffic->workers[i];
    if (worker->started) pthread_join(worker->thread, NULL);
    worker->started = false;
    while (atomic_load_explicit(&worker->inside, memory_order_acquire)) sched_yield();
    for (struct tc_slot *slot = worker->slots; slot; slot = slot->sibling) {
      if (atomic_load(&slot->state) & TC_SLOT_FLYING) out++;
      delete_request(slot);
    }
  }
  struct tc_sample sample;
  while (tc_traffic_wait(traffic, 0, &sample) == 1) {
    TRITONSERVER_Error *error = tc_triton.InferenceResponseDelete(sample.response);
    if (error) tc_triton.ErrorDelete(error);
  }
  if (out) return out;
  for (uint32_t i = 0; i < traffic->options.threads; i++) {
    struct tc_worker *worker = &traffic->workers[i];
    for (struct tc_slot *slot = worker->slots, *next; slot; slot = next) {
      next = slot->sibling;
      tc_slot_give_back(slot);
    }
    pthread_mutex_destroy(&worker->lock);
  }
  pthread_cond_destroy(&traffic->changed);
  pthread_mutex_destroy(&traffic->lock);
  destroy(traffic);
  return 0;
}
