/* Histograms of durations. Any number of threads may record at once, without a lock; reading meanwhile sees some state
 * in between: a count that is off by what is being recorded. */
#include "histogram.h"

void tc_histogram_clear(struct tc_histogram *histogram) {
  tc_poke(&histogram->count, 0);
  tc_poke(&histogram->sum, 0);
  tc_poke(&histogram->smallest, UINT64_MAX);
  tc_poke(&histogram->largest, 0);
  for (size_t i = 0; i < TC_HISTOGRAM_BUCKETS; i++) tc_poke(&histogram->buckets[i], 0);
}

/* The caller gives the memory: so many bytes, and clears it first. */
size_t tc_histogram_size(void) { return sizeof(struct tc_histogram); }

static void add(_Atomic uint64_t *value, uint64_t more) {
  atomic_fetch_add_explicit(value, more, memory_order_relaxed);
}

static void lower(_Atomic uint64_t *value, uint64_t candidate) {
  uint64_t seen = tc_peek(value);
  while (candidate < seen)
    if (atomic_compare_exchange_weak_explicit(value, &seen, candidate, memory_order_relaxed, memory_order_relaxed))
      return;
}

static void raise(_Atomic uint64_t *value, uint64_t candidate) {
  uint64_t seen = tc_peek(value);
  while (candidate > seen)
    if (atomic_compare_exchange_weak_explicit(value, &seen, candidate, memory_order_relaxed, memory_order_relaxed))
      return;
}

void tc_histogram_record(struct tc_histogram *histogram, uint64_t value) {
  add(&histogram->buckets[tc_histogram_bucket(value)], 1);
  add(&histogram->sum, value);
  lower(&histogram->smallest, value);
  raise(&histogram->largest, value);
  add(&histogram->count, 1);
}

void tc_histogram_record_many(struct tc_histogram *histogram, const uint64_t *values, size_t count) {
  for (size_t i = 0; i < count; i++) tc_histogram_record(histogram, values[i]);
}

/* Adds what `from` holds to `into`. */
void tc_histogram_merge(struct tc_histogram *into, const struct tc_histogram *from) {
  for (size_t i = 0; i < TC_HISTOGRAM_BUCKETS; i++) {
    uint64_t count = tc_peek(&from->buckets[i]);
    if (count) add(&into->buckets[i], count);
  }
  add(&into->count, tc_peek(&from->count));
  add(&into->sum, tc_peek(&from->sum));
  lower(&into->smallest, tc_peek(&from->smallest));
  raise(&into->largest, tc_peek(&from->largest));
}

static uint64_t middle(size_t bucket) {
  const uint64_t each = UINT64_C(1) << TC_HISTOGRAM_BITS;
  if (bucket < each) return bucket;
  unsigned octave = (unsigned)(bucket >> TC_HISTOGRAM_BITS) - 1;
  uint64_t lowest = (each + (bucket & (each - 1))) << octave;
  return lowest + ((UINT64_C(1) << octave) >> 1);
}

/* The smallest value that at least this share (0 to 1) of all are not above, to 0.4 %; 0 when there are none. */
uint64_t tc_histogram_quantile(const struct tc_histogram *histogram, double share) {
  uint64_t total = 0;
  for (size_t i = 0; i < TC_HISTOGRAM_BUCKETS; i++) total += tc_peek(&histogram->buckets[i]);
  if (!total) return 0;
  double exact = share * (double)total;
  uint64_t rank = exact <= 1 ? 1 : (uint64_t)exact;
  if ((double)rank < exact) rank++;
  if (rank > total) rank = total;
  uint64_t smallest = tc_peek(&histogram->smallest), largest = tc_peek(&histogram->largest);
  if (rank == 1) return smallest;
  if (rank == total) return largest;
  size_t bucket = 0;
  for (uint64_t seen = 0; bucket < TC_HISTOGRAM_BUCKETS; bucket++)
    if ((seen += tc_peek(&histogram->buckets[bucket])) >= rank) break;
  if (bucket >= TC_HISTOGRAM_BUCKETS - 1) return largest; /* the bucket without an upper end */
  uint64_t value = middle(bucket);
  return value < smallest ? smallest : value > largest ? largest : value;
}

/* Count, sum, smallest (0 when there are none) and largest. */
void tc_histogram_totals(const struct tc_histogram *histogram, uint64_t totals[4]) {
  totals[0] = tc_peek(&histogram->count);
  totals[1] = tc_peek(&histogram->sum);
  totals[2] = totals[0] ? tc_peek(&histogram->smallest) : 0;
  totals[3] = tc_peek(&histogram->largest);
}

/* Copies the counts of all buckets and each one's middle; returns how many buckets there are. */
size_t tc_histogram_read(const struct tc_histogram *histogram, uint64_t *counts, uint64_t *middles, size_t limit) {
  for (size_t i = 0; i < TC_HISTOGRAM_BUCKETS && i < limit; i++) {
    counts[i] = tc_peek(&histogram->buckets[i]);
    middles[i] = middle(i);
  }
  return TC_HISTOGRAM_BUCKETS;
}
