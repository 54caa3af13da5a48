/* Tallies: what a worker writes down of each request that ended. */
#define _GNU_SOURCE
#include "traffic.h"

static void hand_over(struct tc_worker *worker, struct tc_slot *slot) {
  struct tc_traffic *traffic = worker->traffic;
  pthread_mutex_lock(&traffic->lock);
  bool room = traffic->sample_count < TC_SAMPLES;
  if (room) {
    size_t at = (traffic->first_sample + traffic->sample_count++) % TC_SAMPLES;
    traffic->samples[at] = (struct tc_sample){
        .response = slot->kept,
        .inputs = slot->inputs,
        .correlation = slot->correlation,
        .intended_ns = slot->intended_ns,
        .submit_ns = slot->submit_ns,
        .final_ns = slot->final_ns,
        .target = slot->target,
        .step = slot->step,
        .last = slot->last,
    };
    pthread_cond_broadcast(&traffic->changed);
  }
  pthread_mutex_unlock(&traffic->lock);
  struct tc_traffic_counts *counts = &worker->tallies[slot->target].counts;
  if (room) {
    counts->samples++;
  } else {
    counts->skipped++;
    TRITONSERVER_Error *error = tc_triton.InferenceResponseDelete(slot->kept);
    if (error) tc_triton.ErrorDelete(error);
  }
  slot->kept = NULL;
}

static void note_thread(struct tc_tally *tally, int64_t thread) {
  for (size_t i = 0; i < tally->thread_count; i++)
    if (tally->threads[i] == thread) return;
  if (tally->thread_count < TC_THREADS) tally->threads[tally->thread_count++] = thread;
}

static uint64_t since(int64_t begin_ns, int64_t end_ns) {
  return end_ns > begin_ns ? (uint64_t)(end_ns - begin_ns) : 0;
}

static void add_error(struct tc_traffic_counts *counts, int code) {
  counts->errors++;
  counts->codes[code]++;
}

/* Counts a slot that came back; the worker's lock is held. */
void tc_tally_end(struct tc_worker *worker, struct tc_slot *slot) {
  struct tc_tally *tally = &worker->tallies[slot->target];
  const struct tc_target_options *target = &worker->traffic->targets[slot->target];
  bool failed = slot->code >= 0;
  note_thread(tally, slot->thread);
  if (slot->kept) hand_over(worker, slot);
  if (target->sequence_length) slot->step = failed || slot->last ? 0 : slot->step + 1;
  if (!slot->measured) {
    tally->counts.warmup++;
    return;
  }
  bool open = worker->traffic->options.rate > 0;
  uint64_t latency = since(slot->intended_ns, slot->final_ns);
  tally->counts.completed++;
  tally->counts.responses += slot->responses;
  tc_series_add(&worker->series, slot->final_ns, latency, failed);
  if (open) tc_histogram_record_alone(&tally->late, since(slot->intended_ns, slot->submit_ns));
  if (failed) {
    add_error(&tally->counts, slot->code);
    return;
  }
  tc_histogram_record_alone(&tally->latency, latency);
  if (open) tc_histogram_record_alone(&tally->naive, since(slot->submit_ns, slot->final_ns));
  if (target->decoupled && slot->responses)
    tc_histogram_record_alone(&tally->first, since(slot->submit_ns, slot->first_ns));
  tc_histogram_record_alone(&tally->release, since(slot->submit_ns, slot->release_ns));
}

/* Counts a request that Triton did not take; the worker's lock is held. */
void tc_tally_refusal(struct tc_worker *worker, struct tc_slot *slot, int code) {
  struct tc_tally *tally = &worker->tallies[slot->target];
  if (!slot->measured) {
    tally->counts.warmup_refused++;
    return;
  }
  int64_t now = tc_now();
  tally->counts.completed++;
  tally->counts.refused++;
  add_error(&tally->counts, code);
  tc_series_add(&worker->series, now, 0, 1);
  tc_traffic_ended_at(worker->traffic, now);
}
