/* Response allocators: where each output goes, decided by rules, without the interpreter lock.
 *
 * Every allocation gets a record: what Triton preferred, what it was given, and whether it came back. The record's
 * address is the buffer's userp, so a release is matched with its allocation and a second one is noticed. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "allocator.h"
#include "gpu.h"
#include "notices.h"
#include "pool.h"
#include "rules.h"
#include "triton.h"

/* What Python reads, in one piece. */
struct tc_record {
  const char *tensor; /* owned by the allocator, valid as long as it is */
  void *buffer;
  uint64_t sequence;
  uint64_t byte_size;
  int64_t preferred_id, actual_id;
  int64_t allocated_ns, released_ns; /* released_ns: 0 while Triton or the response holds it */
  int32_t preferred_type, actual_type;
  uint32_t releases;
  uint32_t mismatched; /* a release named another buffer, size or place than the allocation */
};

struct record {
  struct tc_record public;
  struct tc_allocator *owner;
  struct shard *shard; /* the one that it is listed in, and goes back to */
  struct record *previous, *next;
  bool in_one;         /* the buffer is part of this block */
  unsigned char ipc[]; /* IPC bytes, where they are wanted */
};

enum { IPC = 64 };

/* A buffer that is kept goes back to the shard it came from, so mostly to the thread that gets the next one. */
struct shard {
  _Alignas(64) pthread_mutex_t lock; /* of what follows */
  struct tc_counts counts;           /* without the bytes */
  struct record *first, *last;
  struct record *spare; /* of buffers that are kept: those come and go often */
  struct tc_pool pool;
};

struct tc_allocator {
  struct tc_lender lender;
  /* Set before the first request. */
  struct tc_rule *rules;
  bool keep;  /* keep records of released buffers until they are cleared */
  bool reuse; /* keep buffers that come back */
  bool ipc;   /* hand out CUDA IPC handles for GPU buffers */
  int poison; /* the byte that new buffers are filled with, or -1 */

  struct tc_names names;
  _Atomic uint64_t starts, queries, attributes, failures, free_failures;
  _Alignas(64) _Atomic uint64_t sequence, live_bytes, peak_bytes;
  struct shard shards[TC_SHARDS];
  struct tc_allocator *next; /* of those that are retired */
};

/* Memory of allocators is never given back, only used again: who closes a response may ask an allocator that has gone
 * meanwhile how much is out. */
static struct {
  pthread_mutex_t lock;
  struct tc_allocator *first;
} retired = {.lock = PTHREAD_MUTEX_INITIALIZER};

uint32_t tc_own_shard(void) {
  static _Atomic uint32_t threads;
  static _Thread_local uint32_t number; /* from 1 on */
  if (!number) number = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) + 1;
  return number % TC_SHARDS;
}

static uint64_t live_bytes(const struct tc_lender *lender) {
  return atomic_load_explicit(&((const struct tc_allocator *)lender)->live_bytes, memory_order_relaxed);
}

static struct tc_allocator *take_one(void) {
  pthread_mutex_lock(&retired.lock);
  struct tc_allocator *allocator = retired.first;
  if (allocator) retired.first = allocator->next;
  pthread_mutex_unlock(&retired.lock);
  if (allocator) return allocator;
  allocator = aligned_alloc(TC_ALIGNMENT, sizeof *allocator);
  if (allocator) allocator->lender.live_bytes = live_bytes; /* for good */
  return allocator;
}

struct tc_allocator *tc_allocator_new(int keep, int ipc, int poison, int reuse) {
  struct tc_allocator *allocator = take_one();
  if (!allocator) return NULL;
  allocator->rules = NULL;
  allocator->names = (struct tc_names){0};
  atomic_store(&allocator->live_bytes, 0);
  allocator->starts = allocator->queries = allocator->attributes = allocator->failures = allocator->free_failures = 0;
  allocator->sequence = allocator->peak_bytes = 0;
  memset(allocator->shards, 0, sizeof allocator->shards);
  for (size_t i = 0; i < TC_SHARDS; i++) tc_lock_init(&allocator->shards[i].lock);
  allocator->keep = keep != 0;
  allocator->reuse = reuse != 0;
  allocator->ipc = ipc != 0;
  allocator->poison = poison;
  return allocator;
}

/* Keeps `count` buffers more for outputs of this size and place. Returns NULL, or what failed. */
const char *tc_allocator_reserve(
    struct tc_allocator *allocator, int memory_type, int64_t memory_type_id, size_t byte_size, size_t count) {
  for (size_t i = 0; i < count; i++) {
    void *buffer;
    const char *error = tc_memory_new(memory_type, memory_type_id, byte_size, &buffer);
    if (error) return error;
    struct shard *shard = &allocator->shards[i % TC_SHARDS];
    pthread_mutex_lock(&shard->lock);
    bool kept = tc_pool_keep(&shard->pool, memory_type, memory_type_id, byte_size, buffer);
    pthread_mutex_unlock(&shard->lock);
    if (kept) continue;
    tc_memory_free(memory_type, memory_type_id, buffer);
    return "out of host memory";
  }
  return NULL;
}

int tc_allocator_rule(
    struct tc_allocator *allocator, const char *tensor, int mode, int memory_type, int64_t memory_type_id,
    int error_code, const char *message) {
  return tc_rules_add(&allocator->rules, tensor, mode, memory_type, memory_type_id, error_code, message);
}

/* So that memory which nobody wrote cannot pass for an answer, not even for one of zeros. */
static const char *fill(int memory_type, int64_t id, void *buffer, size_t byte_size, int poison) {
  if (memory_type == TC_MEMORY_GPU) return tc_gpu_fill((int)id, buffer, byte_size, (unsigned char)poison);
  memset(buffer, poison, byte_size);
  return NULL;
}

static void unlink_record(struct record *record) {
  *(record->previous ? &record->previous->next : &record->shard->first) = record->next;
  *(record->next ? &record->next->previous : &record->shard->last) = record->previous;
}

static TRITONSERVER_Error *refuse(struct tc_allocator *allocator, int code, const char *tensor, const char *why) {
  char text[400];
  snprintf(text, sizeof text, "response allocator: output '%s': %s", tensor ? tensor : "", why);
  atomic_fetch_add_explicit(&allocator->failures, 1, memory_order_relaxed);
  return tc_triton.ErrorNew(code, text);
}

/* A buffer that was kept, from the thread's own shard or else from another; NULL without one. */
static void *take_kept(struct tc_allocator *allocator, struct shard *own, int type, int64_t id, size_t byte_size) {
  void *found = NULL;
  for (size_t i = 0; i < TC_SHARDS && !found; i++) {
    struct shard *shard = &allocator->shards[((size_t)(own - allocator->shards) + i) % TC_SHARDS];
    pthread_mutex_lock(&shard->lock);
    found = tc_pool_take(&shard->pool, type, id, byte_size);
    pthread_mutex_unlock(&shard->lock);
  }
  return found;
}

/* Memory that is new, filled and shared as it is wanted, and a record for it if there is none. Returns NULL, or what
 * failed; there is neither then. */
static const char *make(
    const struct tc_allocator *allocator, int type, int64_t id, size_t byte_size, struct record **record,
    void **buffer) {
  bool had = *buffer, in_one = !had && byte_size && type == TC_MEMORY_CPU && !allocator->keep && !allocator->reuse;
  if (!*record) {
    /* On the CPU both in one, while nothing asks for either alone. */
    size_t extra = in_one ? byte_size + TC_ALIGNMENT : allocator->ipc ? IPC : 0;
    struct record *fresh = extra > SIZE_MAX - sizeof *fresh || extra < (in_one ? byte_size : 0)
                               ? NULL
                               : malloc(sizeof *fresh + extra);
    if (!fresh) return "out of host memory";
    fresh->in_one = in_one;
    *record = fresh;
    if (in_one) *buffer = (void *)(((uintptr_t)(fresh + 1) + TC_ALIGNMENT - 1) & ~(uintptr_t)(TC_ALIGNMENT - 1));
  }
  const char *error = byte_size && !*buffer ? tc_memory_new(type, id, byte_size, buffer) : NULL;
  if (error) *buffer = NULL;
  if (!error && byte_size && allocator->poison >= 0) error = fill(type, id, *buffer, byte_size, allocator->poison);
  /* Here, not in the attributes callback: when that one fails, Triton forgets the buffer without a release. */
  if (!error && byte_size && allocator->ipc && type == TC_MEMORY_GPU)
    error = tc_gpu_ipc_handle((int)id, *buffer, (*record)->ipc);
  if (!error) return NULL;
  if (*buffer && !(*record)->in_one) tc_memory_free(type, id, *buffer);
  free(*record);
  return error;
}

static void count_bytes(struct tc_allocator *allocator, uint64_t byte_size) {
  uint64_t live = atomic_fetch_add_explicit(&allocator->live_bytes, byte_size, memory_order_relaxed) + byte_size;
  uint64_t peak = atomic_load_explicit(&allocator->peak_bytes, memory_order_relaxed);
  while (live > peak && !atomic_compare_exchange_weak(&allocator->peak_bytes, &peak, live)) continue;
}

TRITONSERVER_Error *tc_allocator_alloc(
    TRITONSERVER_ResponseAllocator *handle, const char *tensor, size_t byte_size, int preferred_type,
    int64_t preferred_id, void *userp, void **buffer, void **buffer_userp, int *actual_type, int64_t *actual_id) {
  (void)handle;
  struct tc_allocator *allocator = userp;
  *buffer = NULL;
  *buffer_userp = NULL;
  const struct tc_rule *rule = tc_rules_find(allocator->rules, tensor);
  if (rule->mode == TC_FAIL)
    return refuse(allocator, rule->error_code, tensor, rule->message ? rule->message : "failed");
  int type = *actual_type = rule->mode == TC_PREFERRED ? preferred_type : rule->memory_type;
  int64_t id = *actual_id = rule->mode == TC_PREFERRED ? preferred_id : rule->memory_type_id;
  const char *name = tc_names_keep(&allocator->names, tensor ? tensor : "");
  if (!name) return refuse(allocator, TC_ERROR_UNAVAILABLE, tensor, "out of host memory");

  struct shard *shard = &allocator->shards[tc_own_shard()];
  struct record *record = NULL;
  void *mine = NULL;
  int64_t now = tc_now();
  uint64_t sequence = atomic_fetch_add_explicit(&allocator->sequence, 1, memory_order_relaxed);
  bool locked = allocator->reuse;
  if (locked) {
    pthread_mutex_lock(&shard->lock);
    if (byte_size) mine = tc_pool_take(&shard->pool, type, id, byte_size);
    record = shard->spare;
    if (record) shard->spare = record->next;
  }
  /* Nothing to do without the lock: it stays held. */
  bool whole = record && (mine || !byte_size) && allocator->poison < 0 && !allocator->ipc;
  if (!whole) {
    if (locked) pthread_mutex_unlock(&shard->lock);
    if (locked && byte_size && !mine) mine = take_kept(allocator, shard, type, id, byte_size);
    const char *error = make(allocator, type, id, byte_size, &record, &mine);
    if (error) return refuse(allocator, TC_ERROR_UNAVAILABLE, tensor, error);
  }
  record->owner = allocator;
  record->shard = shard;
  record->public = (struct tc_record){
      .tensor = name,
      .buffer = mine,
      .sequence = sequence,
      .byte_size = byte_size,
      .preferred_type = preferred_type,
      .preferred_id = preferred_id,
      .actual_type = type,
      .actual_id = id,
      .allocated_ns = now,
  };
  *buffer = mine;
  if (byte_size) count_bytes(allocator, byte_size);
  if (!whole) pthread_mutex_lock(&shard->lock);
  struct tc_counts *counts = &shard->counts;
  counts->allocations++;
  if (byte_size) {
    *buffer_userp = record;
    counts->live++;
  } else {
    /* There is no buffer, and Triton releases none: nothing is out, the record is complete. */
    counts->zero_sized++;
    record->public.released_ns = record->public.allocated_ns;
  }
  bool listed = byte_size || allocator->keep;
  if (listed) {
    record->previous = shard->last;
    record->next = NULL;
    *(shard->last ? &shard->last->next : &shard->first) = record;
    shard->last = record;
  }
  pthread_mutex_unlock(&shard->lock);
  if (!listed) free(record);
  return NULL;
}

TRITONSERVER_Error *tc_allocator_release(
    TRITONSERVER_ResponseAllocator *handle, void *buffer, void *buffer_userp, size_t byte_size, int memory_type,
    int64_t memory_type_id) {
  (void)handle;
  struct record *record = buffer_userp;
  if (!record && !buffer) return NULL; /* an empty output, should a Triton ever release one */
  if (!record) return tc_triton.ErrorNew(TC_ERROR_INTERNAL, "response allocator: release without an allocation");
  struct tc_allocator *allocator = record->owner;
  struct tc_record *public = &record->public;
  struct shard *shard = record->shard;
  int64_t now = allocator->keep ? tc_now() : 0;
  pthread_mutex_lock(&shard->lock);
  struct tc_counts *counts = &shard->counts;
  bool again = public->releases++ > 0;
  if (public->buffer != buffer || public->byte_size != byte_size || public->actual_type != memory_type ||
      public->actual_id != memory_type_id) {
    public->mismatched++;
    counts->mismatched++;
  }
  if (again) {
    counts->double_releases++;
    pthread_mutex_unlock(&shard->lock);
    return tc_triton.ErrorNew(TC_ERROR_INTERNAL, "response allocator: buffer released twice");
  }
  public->released_ns = now;
  counts->releases++;
  counts->live--;
  /* What was allocated is freed, whatever the release says it is. */
  void *mine = public->buffer;
  int type = public->actual_type;
  int64_t id = public->actual_id;
  uint64_t size = public->byte_size;
  atomic_fetch_sub_explicit(&allocator->live_bytes, size, memory_order_relaxed);
  bool in_one = record->in_one, gone = in_one;
  if (allocator->reuse) gone = tc_pool_keep(&shard->pool, type, id, size, mine);
  bool forget = !allocator->keep;
  if (forget) unlink_record(record);
  bool spare = forget && allocator->reuse && gone;
  if (spare) {
    record->next = shard->spare;
    shard->spare = record;
  }
  pthread_mutex_unlock(&shard->lock);
  if (forget && !spare) free(record);
  const char *error = gone ? NULL : tc_memory_free(type, id, mine);
  if (!error) return NULL;
  atomic_fetch_add_explicit(&allocator->free_failures, 1, memory_order_relaxed);
  return tc_triton.ErrorNew(TC_ERROR_INTERNAL, error);
}

TRITONSERVER_Error *tc_allocator_start(TRITONSERVER_ResponseAllocator *handle, void *userp) {
  (void)handle;
  struct tc_allocator *allocator = userp;
  atomic_fetch_add_explicit(&allocator->starts, 1, memory_order_relaxed);
  return NULL;
}

/* Tells a backend beforehand where an output will be. */
TRITONSERVER_Error *tc_allocator_query(
    TRITONSERVER_ResponseAllocator *handle, void *userp, const char *tensor, size_t *byte_size, int *memory_type,
    int64_t *memory_type_id) {
  (void)handle;
  (void)byte_size;
  struct tc_allocator *allocator = userp;
  atomic_fetch_add_explicit(&allocator->queries, 1, memory_order_relaxed);
  const struct tc_rule *rule = tc_rules_find(allocator->rules, tensor);
  if (rule->mode == TC_FIXED) {
    *memory_type = rule->memory_type;
    *memory_type_id = rule->memory_type_id;
  }
  return NULL;
}

TRITONSERVER_Error *tc_allocator_attributes(
    TRITONSERVER_ResponseAllocator *handle, const char *tensor, TRITONSERVER_BufferAttributes *attributes, void *userp,
    void *buffer_userp) {
  (void)handle;
  (void)tensor;
  struct tc_allocator *allocator = userp;
  struct record *record = buffer_userp;
  atomic_fetch_add_explicit(&allocator->attributes, 1, memory_order_relaxed);
  if (!allocator->ipc || !record || record->public.actual_type != TC_MEMORY_GPU) return NULL;
  return tc_triton.BufferAttributesSetCudaIpcHandle(attributes, record->ipc);
}

void tc_allocator_counts(struct tc_allocator *allocator, struct tc_counts *counts) {
  *counts = (struct tc_counts){
      .starts = atomic_load(&allocator->starts),
      .queries = atomic_load(&allocator->queries),
      .attributes = atomic_load(&allocator->attributes),
      .failures = atomic_load(&allocator->failures),
      .free_failures = atomic_load(&allocator->free_failures),
  };
  for (struct shard *shard = allocator->shards; shard < allocator->shards + TC_SHARDS; shard++) {
    pthread_mutex_lock(&shard->lock);
    const struct tc_counts *some = &shard->counts;
    counts->allocations += some->allocations;
    counts->zero_sized += some->zero_sized;
    counts->releases += some->releases;
    counts->double_releases += some->double_releases;
    counts->mismatched += some->mismatched;
    counts->live += some->live;
    counts->reused += shard->pool.reused;
    pthread_mutex_unlock(&shard->lock);
  }
  counts->live_bytes = atomic_load(&allocator->live_bytes);
  counts->peak_bytes = atomic_load(&allocator->peak_bytes);
}

/* Copies up to `limit` records, from the one numbered `from` on; in no order. Returns how many. */
size_t tc_allocator_records(struct tc_allocator *allocator, uint64_t from, struct tc_record *records, size_t limit) {
  size_t count = 0;
  for (struct shard *shard = allocator->shards; shard < allocator->shards + TC_SHARDS; shard++) {
    pthread_mutex_lock(&shard->lock);
    for (struct record *record = shard->first; record && count < limit; record = record->next)
      if (record->public.sequence >= from) records[count++] = record->public;
    pthread_mutex_unlock(&shard->lock);
  }
  return count;
}

/* Forgets the records of buffers that came back. */
void tc_allocator_clear(struct tc_allocator *allocator) {
  for (struct shard *shard = allocator->shards; shard < allocator->shards + TC_SHARDS; shard++) {
    pthread_mutex_lock(&shard->lock);
    for (struct record *record = shard->first, *next; record; record = next) {
      next = record->next;
      if (!record->public.released_ns) continue;
      unlink_record(record);
      free(record);
    }
    pthread_mutex_unlock(&shard->lock);
  }
}

/* Frees the allocator. Returns the number of live buffers and does nothing while there are any. */
uint64_t tc_allocator_delete(struct tc_allocator *allocator) {
  struct tc_counts counts;
  tc_allocator_counts(allocator, &counts);
  if (counts.live) return counts.live;
  tc_allocator_clear(allocator);
  tc_rules_free(allocator->rules);
  tc_names_free(&allocator->names);
  for (struct shard *shard = allocator->shards; shard < allocator->shards + TC_SHARDS; shard++) {
    for (struct record *record = shard->spare, *next; record; record = next) {
      next = record->next;
      free(record);
    }
    tc_pool_drain(&shard->pool);
    pthread_mutex_destroy(&shard->lock);
  }
  pthread_mutex_lock(&retired.lock);
  allocator->next = retired.first;
  retired.first = allocator;
  pthread_mutex_unlock(&retired.lock);
  return 0;
}
