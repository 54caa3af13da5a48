/* Series: what a run did over time, in constant memory. */
#ifndef TRITONCAPI_SERIES_H
#define TRITONCAPI_SERIES_H

#include <stddef.h>
#include <stdint.h>

enum { TC_SERIES_CELLS = 4096 };

struct tc_cell {
  uint64_t completed; /* requests, those with an error too */
  uint64_t errors;
  uint64_t latency_sum_ns, latency_max_ns;
};

/* One writer at a time. Cells are a second wide at first; when all are used, neighbours are joined and the width
 * doubles: a second for 68 minutes, 32 s for a day and a half, 256 s for twelve days. */
struct tc_series {
  int64_t origin_ns, width_ns;
  size_t used;
  struct tc_cell cells[TC_SERIES_CELLS];
};

void tc_series_begin(struct tc_series *series, int64_t origin_ns);
void tc_series_add(struct tc_series *series, int64_t time_ns, uint64_t latency_ns, int failed);
void tc_series_merge(struct tc_series *into, const struct tc_series *from);

#endif
