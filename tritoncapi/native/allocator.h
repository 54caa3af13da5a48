/* Response allocators, as other parts see them. */
#ifndef TRITONCAPI_ALLOCATOR_H
#define TRITONCAPI_ALLOCATOR_H

#include <stdint.h>

/* What the state of each begins with. */
struct tc_lender {
  uint64_t (*live_bytes)(const struct tc_lender *lender); /* of buffers that are out, at this moment */
};

/* What Python reads, in one piece. */
struct tc_counts {
  uint64_t starts, queries, attributes;
  uint64_t allocations, failures, zero_sized;
  uint64_t releases, double_releases, mismatched, free_failures;
  uint64_t live, live_bytes, peak_bytes;
  uint64_t reused; /* allocations that took a buffer which was kept */
};

/* Threads that allocate at the same time do so in shards of their own: a model's instances would meet at a single one. */
enum { TC_SHARDS = 8, TC_ALIGNMENT = 64 };

uint32_t tc_own_shard(void); /* this thread's */

#endif
