/* Histograms of durations: log-bucketed, constant memory, a relative error of 0.4 % at most. */
#ifndef TRITONCAPI_HISTOGRAM_H
#define TRITONCAPI_HISTOGRAM_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Below 2^7 every value has a bucket of its own; above, each octave is cut into 2^7 equal ones. The middle of a bucket
 * is off by half its width, 2^-8 of the value. Values from 2^47 ns (39 hours) on share the last bucket. */
enum {
  TC_HISTOGRAM_BITS = 7,
  TC_HISTOGRAM_OCTAVES = 40,
  TC_HISTOGRAM_BUCKETS = (TC_HISTOGRAM_OCTAVES + 1) << TC_HISTOGRAM_BITS
};

struct tc_histogram {
  _Atomic uint64_t count;
  _Atomic uint64_t sum;
  _Atomic uint64_t smallest; /* UINT64_MAX while there is none */
  _Atomic uint64_t largest;
  _Atomic uint64_t buckets[TC_HISTOGRAM_BUCKETS];
};

void tc_histogram_clear(struct tc_histogram *histogram);
void tc_histogram_merge(struct tc_histogram *into, const struct tc_histogram *from);

static inline size_t tc_histogram_bucket(uint64_t value) {
  if (value >> (TC_HISTOGRAM_BITS + TC_HISTOGRAM_OCTAVES)) return TC_HISTOGRAM_BUCKETS - 1;
  if (value >> TC_HISTOGRAM_BITS == 0) return (size_t)value;
  unsigned octave = 63u - (unsigned)__builtin_clzll(value) - TC_HISTOGRAM_BITS;
  return (((size_t)octave + 1) << TC_HISTOGRAM_BITS) + (size_t)((value >> octave) & ((1u << TC_HISTOGRAM_BITS) - 1));
}

static inline uint64_t tc_peek(const _Atomic uint64_t *value) {
  return atomic_load_explicit(value, memory_order_relaxed);
}

static inline void tc_poke(_Atomic uint64_t *value, uint64_t fresh) {
  atomic_store_explicit(value, fresh, memory_order_relaxed);
}

/* For a histogram that one thread alone writes; others may read and merge it meanwhile. No locked instruction. */
static inline void tc_histogram_record_alone(struct tc_histogram *histogram, uint64_t value) {
  _Atomic uint64_t *bucket = &histogram->buckets[tc_histogram_bucket(value)];
  tc_poke(bucket, tc_peek(bucket) + 1);
  tc_poke(&histogram->sum, tc_peek(&histogram->sum) + value);
  if (value < tc_peek(&histogram->smallest)) tc_poke(&histogram->smallest, value);
  if (value > tc_peek(&histogram->largest)) tc_poke(&histogram->largest, value);
  tc_poke(&histogram->count, tc_peek(&histogram->count) + 1);
}

#endif
