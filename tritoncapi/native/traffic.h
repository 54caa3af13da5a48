/* Traffic: prepared requests, sent again and again by threads of its own. For traffic.c, worker.c, tally.c, slot.c.
 *
 * A slot is one prepared request. Callbacks write what they saw into the slot; the one that completes it (final
 * response and release, in either order) pushes it to its worker, who alone counts, and sends it again. */
#ifndef TRITONCAPI_TRAFFIC_H
#define TRITONCAPI_TRAFFIC_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "histogram.h"
#include "series.h"
#include "triton.h"

enum { TC_CODES = 8, TC_MESSAGE = 256, TC_SAMPLES = 64, TC_THREADS = 64 };
enum { TC_SLOT_FINAL = 1, TC_SLOT_RELEASED = 2, TC_SLOT_FLYING = 4 };
enum { TC_AWAKE = 0, TC_ASLEEP = 1, TC_NAPPING = 2 }; /* napping: until the next request is due, whatever comes back */

/* Why no more is sent. */
enum tc_ending {
  TC_RUNNING = 0,
  TC_ENDED_REQUESTS = 1,
  TC_ENDED_DURATION = 2,
  TC_ENDED_STOPPED = 3,
  TC_ENDED_ERRORS = 4,
  TC_ENDED_STALLED = 5,
};

struct tc_traffic_options {
  double rate; /* requests a second; 0: a closed loop */
  double max_error_rate; /* more than 1: never ends because of errors */
  uint64_t seed;
  uint64_t requests; /* 0: no limit */
  uint64_t warmup_requests;
  uint64_t check_every; /* 0: no samples */
  uint64_t least_for_errors; /* as many must have ended before the error rate counts */
  int64_t duration_ns; /* 0: no limit */
  int64_t warmup_ns;
  int64_t patience_ns;
  uint32_t poisson, threads, targets, concurrency;
};

struct tc_target_options {
  double weight, cancel_rate;
  TRITONSERVER_ResponseAllocator *allocator;
  void *allocator_userp;
  uint32_t sequence_length; /* 0: no sequences */
  uint32_t decoupled;
};

/* Of measured requests, except where it says otherwise. */
struct tc_traffic_counts {
  uint64_t submitted; /* taken by Triton, during warm-up too */
  uint64_t warmup;    /* ended, but sent during warm-up */
  uint64_t completed; /* ended: answered, failed or refused */
  uint64_t errors;    /* failed or refused */
  uint64_t refused;   /* by ServerInferAsync */
  uint64_t warmup_refused;
  uint64_t responses;
  uint64_t cancels; /* asked for, during warm-up too */
  uint64_t sequences; /* begun, during warm-up too */
  uint64_t unsent; /* due, but the run was over first */
  uint64_t lost;   /* never came back */
  uint64_t samples, skipped; /* handed over; not, since too many waited */
  uint64_t codes[TC_CODES];
};

struct tc_sample {
  TRITONSERVER_InferenceResponse *response;
  uint64_t inputs, correlation;
  int64_t intended_ns, submit_ns, final_ns;
  uint32_t target, step, last;
};

struct tc_worker;

struct tc_slot {
  _Alignas(64) atomic_uint state;
  int32_t code; /* of the first error response, or -1 */
  uint32_t responses, target, step; /* step: of its sequence, from 0 */
  bool measured, keep, last, cancelled; /* last: of its sequence */
  struct tc_worker *worker;
  TRITONSERVER_InferenceRequest *request;
  TRITONSERVER_InferenceResponse *kept;
  int64_t intended_ns, submit_ns, first_ns, final_ns, release_ns;
  int64_t thread;
  uint64_t inputs, correlation;
  struct tc_slot *next; /* among the done or the idle */
  struct tc_slot *sibling; /* of the same worker */
};

/* One target's part in one worker. */
struct tc_tally {
  struct tc_slot *idle;
  struct tc_traffic_counts counts;
  struct tc_histogram latency, naive, first, release; /* successful requests; naive in an open loop alone */
  struct tc_histogram late; /* in an open loop: from when it was due to when it was sent */
  int64_t threads[TC_THREADS];
  size_t thread_count; /* TC_THREADS: perhaps more */
};

struct tc_worker {
  _Alignas(64) _Atomic(struct tc_slot *) done;
  atomic_int asleep;
  atomic_uint pokes;
  atomic_int inside; /* callbacks that may still touch this worker */
  _Alignas(64) pthread_mutex_t lock; /* for those who read the tallies meanwhile; taken once a batch */
  pthread_t thread;
  bool started;
  struct tc_traffic *traffic;
  struct tc_slot *slots; /* all */
  struct tc_tally *tallies;
  struct tc_series series;
  uint64_t random, sent, kept_of;
  double due_s; /* of the next request, since the beginning; with Poisson arrivals */
  int64_t moved_ns; /* when something last was sent or came back */
  uint32_t index, flying, concurrency, seen_pokes;
  bool cancelled, exhausted; /* exhausted: all that were asked for are sent */
};

struct tc_traffic {
  TRITONSERVER_Server *server;
  struct tc_traffic_options options;
  struct tc_target_options *targets;
  double weights; /* their sum */
  struct tc_worker *workers;
  atomic_llong begin_ns;
  atomic_llong measure_ns; /* since when is measured; 0: not yet */
  atomic_llong last_ns; /* of the last measured completion */
  atomic_int ending;
  atomic_bool cancel;
  _Atomic uint64_t tickets, warm_tickets, ended, failed;
  atomic_uint running; /* workers */
  pthread_mutex_t lock; /* what follows */
  pthread_cond_t changed;
  struct tc_sample samples[TC_SAMPLES];
  size_t first_sample, sample_count;
  char messages[TC_CODES][TC_MESSAGE];
  atomic_bool has_message[TC_CODES];
};

/* Callbacks */
struct tc_slot *tc_slot_new(void);
void tc_slot_give_back(struct tc_slot *slot);
TRITONSERVER_Error *tc_slot_arm(struct tc_slot *slot, const struct tc_target_options *target);
void tc_slot_response(TRITONSERVER_InferenceResponse *response, const uint32_t flags, void *userp);
void tc_slot_release(TRITONSERVER_InferenceRequest *request, const uint32_t flags, void *userp);
int tc_error_code(TRITONSERVER_Error *error);

/* Tallies */
void tc_tally_end(struct tc_worker *worker, struct tc_slot *slot);
void tc_tally_refusal(struct tc_worker *worker, struct tc_slot *slot, int code);

/* Workers, and what they share */
void *tc_worker_run(void *worker);
void tc_worker_poke(struct tc_worker *worker);
void tc_worker_wake(struct tc_worker *worker, int from);
void tc_traffic_note_message(struct tc_traffic *traffic, int code, const char *message);
bool tc_traffic_end(struct tc_traffic *traffic, enum tc_ending why);
void tc_traffic_ended_at(struct tc_traffic *traffic, int64_t time_ns);

#endif
