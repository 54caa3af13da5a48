/* Series: what a run did over time, in constant memory. */
#include "series.h"

#include <string.h>

static const int64_t SECOND = 1000000000;

void tc_series_begin(struct tc_series *series, int64_t origin_ns) {
  memset(series, 0, sizeof *series);
  series->origin_ns = origin_ns;
  series->width_ns = SECOND;
}

static void join(struct tc_cell *into, const struct tc_cell *from) {
  into->completed += from->completed;
  into->errors += from->errors;
  into->latency_sum_ns += from->latency_sum_ns;
  if (from->latency_max_ns > into->latency_max_ns) into->latency_max_ns = from->latency_max_ns;
}

static void widen(struct tc_series *series) {
  for (size_t i = 0; i < TC_SERIES_CELLS / 2; i++) {
    struct tc_cell both = series->cells[2 * i];
    join(&both, &series->cells[2 * i + 1]);
    series->cells[i] = both;
  }
  memset(series->cells + TC_SERIES_CELLS / 2, 0, sizeof series->cells / 2);
  series->used = (series->used + 1) / 2;
  series->width_ns *= 2;
}

static struct tc_cell *cell_at(struct tc_series *series, int64_t offset_ns) {
  if (offset_ns < 0) offset_ns = 0;
  while (offset_ns / series->width_ns >= TC_SERIES_CELLS) widen(series);
  size_t index = (size_t)(offset_ns / series->width_ns);
  if (index >= series->used) series->used = index + 1;
  return &series->cells[index];
}

void tc_series_add(struct tc_series *series, int64_t time_ns, uint64_t latency_ns, int failed) {
  const struct tc_cell one = {1, failed != 0, latency_ns, latency_ns};
  join(cell_at(series, time_ns - series->origin_ns), &one);
}

/* Adds a series with the same origin to another. */
void tc_series_merge(struct tc_series *into, const struct tc_series *from) {
  while (into->width_ns < from->width_ns) widen(into);
  for (size_t i = 0; i < from->used; i++) join(cell_at(into, (int64_t)i * from->width_ns), &from->cells[i]);
}

/* The caller gives the memory: so many bytes, and begins it first. */
size_t tc_series_size(void) { return sizeof(struct tc_series); }

/* Copies up to `limit` cells; returns how many there are, and their width. */
size_t tc_series_read(const struct tc_series *series, struct tc_cell *cells, size_t limit, int64_t *width_ns) {
  memcpy(cells, series->cells, (series->used < limit ? series->used : limit) * sizeof *cells);
  *width_ns = series->width_ns;
  return series->used;
}
