/* Counting allocators: everything on the CPU, counted and not recorded. What a server uses for requests that name no
 * allocator: hot in every request, so nothing is locked here, and up to eight threads share no line of a cache. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "allocator.h"
#include "triton.h"

/* A thread counts what it gives and what it takes back, whoever gave that: only sums mean something. */
struct count {
  _Alignas(TC_ALIGNMENT) _Atomic uint64_t given;
  _Atomic uint64_t given_bytes, returned, returned_bytes, zero_sized, failures, mismatched;
};

struct tc_counting {
  struct tc_lender lender;
  struct tc_counting *next; /* of those that are retired */
  struct count counts[TC_SHARDS];
};

/* Before each buffer, in one piece with it. */
struct block {
  struct tc_counting *owner;
  size_t byte_size;
};

/* Memory of allocators is never given back, only used again (allocator.c). */
static struct {
  pthread_mutex_t lock;
  struct tc_counting *first;
} retired = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void add(_Atomic uint64_t *count, uint64_t number) {
  atomic_fetch_add_explicit(count, number, memory_order_relaxed);
}

static struct count *own_count(struct tc_counting *counting) { return &counting->counts[tc_own_shard()]; }

/* What came back is read first: a buffer that comes and goes meanwhile counts as one that is out, not as less than none. */
static uint64_t live_bytes(const struct tc_lender *lender) {
  const struct tc_counting *counting = (const struct tc_counting *)lender;
  uint64_t bytes = 0;
  for (int i = 0; i < TC_SHARDS; i++) bytes -= counting->counts[i].returned_bytes;
  for (int i = 0; i < TC_SHARDS; i++) bytes += counting->counts[i].given_bytes;
  return bytes;
}

/* NULL without memory. */
struct tc_counting *tc_counting_new(void) {
  pthread_mutex_lock(&retired.lock);
  struct tc_counting *counting = retired.first;
  if (counting) retired.first = counting->next;
  pthread_mutex_unlock(&retired.lock);
  if (!counting) {
    counting = aligned_alloc(TC_ALIGNMENT, sizeof *counting);
    if (!counting) return NULL;
    counting->lender.live_bytes = live_bytes; /* for good */
  }
  for (int i = 0; i < TC_SHARDS; i++) {
    struct count *some = &counting->counts[i];
    some->given = some->given_bytes = some->returned = some->returned_bytes = 0;
    some->zero_sized = some->failures = some->mismatched = 0;
  }
  return counting;
}

void tc_counting_counts(const struct tc_counting *counting, struct tc_counts *counts) {
  *counts = (struct tc_counts){0};
  for (int i = 0; i < TC_SHARDS; i++) {
    counts->releases += counting->counts[i].returned;
    counts->live_bytes -= counting->counts[i].returned_bytes;
  }
  counts->live = -counts->releases;
  for (int i = 0; i < TC_SHARDS; i++) {
    const struct count *some = &counting->counts[i];
    uint64_t given = some->given, zero_sized = some->zero_sized;
    counts->live += given;
    counts->live_bytes += some->given_bytes;
    counts->allocations += given + zero_sized;
    counts->zero_sized += zero_sized;
    counts->failures += some->failures;
    counts->mismatched += some->mismatched;
  }
}

/* Nothing of it may be out. */
void tc_counting_delete(struct tc_counting *counting) {
  pthread_mutex_lock(&retired.lock);
  counting->next = retired.first;
  retired.first = counting;
  pthread_mutex_unlock(&retired.lock);
}

static void *buffer_of(struct block *block) {
  return (void *)(((uintptr_t)(block + 1) + TC_ALIGNMENT - 1) & ~(uintptr_t)(TC_ALIGNMENT - 1));
}

TRITONSERVER_Error *tc_counting_alloc(
    TRITONSERVER_ResponseAllocator *handle, const char *tensor, size_t byte_size, int preferred_type,
    int64_t preferred_id, void *userp, void **buffer, void **buffer_userp, int *actual_type, int64_t *actual_id) {
  (void)handle, (void)tensor, (void)preferred_type, (void)preferred_id;
  struct tc_counting *counting = userp;
  struct count *count = own_count(counting);
  *actual_type = TC_MEMORY_CPU;
  *actual_id = 0;
  *buffer = *buffer_userp = NULL;
  if (!byte_size) { /* there is no buffer, and Triton releases none */
    add(&count->zero_sized, 1);
    return NULL;
  }
  const size_t extra = sizeof(struct block) + TC_ALIGNMENT;
  struct block *block = byte_size > SIZE_MAX - extra ? NULL : malloc(extra + byte_size);
  if (!block) {
    add(&count->failures, 1);
    return tc_triton.ErrorNew(TC_ERROR_UNAVAILABLE, "response allocator: out of host memory");
  }
  block->owner = counting;
  block->byte_size = byte_size;
  *buffer = buffer_of(block);
  *buffer_userp = block;
  add(&count->given_bytes, byte_size);
  add(&count->given, 1);
  return NULL;
}

TRITONSERVER_Error *tc_counting_release(
    TRITONSERVER_ResponseAllocator *handle, void *buffer, void *buffer_userp, size_t byte_size, int memory_type,
    int64_t memory_type_id) {
  (void)handle;
  struct block *block = buffer_userp;
  if (!block && !buffer) return NULL; /* an empty output, should a Triton ever release one */
  if (!block) return tc_triton.ErrorNew(TC_ERROR_INTERNAL, "response allocator: release without an allocation");
  struct count *count = own_count(block->owner);
  bool same = buffer == buffer_of(block) && byte_size == block->byte_size;
  if (!same || memory_type != TC_MEMORY_CPU || memory_type_id) add(&count->mismatched, 1);
  add(&count->returned_bytes, block->byte_size);
  add(&count->returned, 1);
  free(block); /* what was allocated, whatever the release says it is */
  return NULL;
}

/* Tells a backend beforehand where an output will be. */
TRITONSERVER_Error *tc_counting_query(
    TRITONSERVER_ResponseAllocator *handle, void *userp, const char *tensor, size_t *byte_size, int *memory_type,
    int64_t *memory_type_id) {
  (void)handle, (void)userp, (void)tensor, (void)byte_size;
  *memory_type = TC_MEMORY_CPU;
  *memory_type_id = 0;
  return NULL;
}
