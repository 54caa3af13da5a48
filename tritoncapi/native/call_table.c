/* The calls there are. A key is a call's number and how often it was used before; calls are used again, and never go back
 * to the heap. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "calls.h"

enum { CHUNK = 4096, CHUNKS = 4096 };

static struct {
  pthread_mutex_t lock;
  struct tc_call *idle; /* the last one used first: it is in a cache */
  uint32_t made, out;
  _Atomic(struct tc_call *) chunks[CHUNKS];
} table = {.lock = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP};

static struct tc_call *make_call(void) {
  if (table.made == CHUNK * CHUNKS) return NULL;
  uint32_t number = table.made;
  struct tc_call *chunk = atomic_load_explicit(&table.chunks[number / CHUNK], memory_order_relaxed);
  if (!chunk) {
    chunk = aligned_alloc(64, CHUNK * sizeof *chunk);
    if (!chunk) return NULL;
    atomic_store_explicit(&table.chunks[number / CHUNK], chunk, memory_order_release);
  }
  struct tc_call *call = &chunk[number % CHUNK];
  memset(call, 0, sizeof *call);
  tc_lock_init(&call->lock);
  tc_condition_init(&call->changed);
  call->next_key = (UINT64_C(1) << TC_NUMBER_BITS) | number;
  call->events = call->few;
  call->capacity = TC_FEW;
  table.made++;
  return call;
}

/* Calls to begin. False without memory. */
bool tc_calls_reserve(struct tc_call **calls, size_t count) {
  size_t had = 0;
  pthread_mutex_lock(&table.lock);
  for (; had < count; had++) {
    struct tc_call *call = table.idle;
    if (call)
      table.idle = call->next;
    else if (!(call = make_call()))
      break;
    calls[had] = call;
  }
  table.out += (uint32_t)had;
  pthread_mutex_unlock(&table.lock);
  if (had == count) return true;
  tc_calls_put_back(calls, had);
  return false;
}

/* They are closed, or were not begun. */
void tc_calls_put_back(struct tc_call **calls, size_t count) {
  pthread_mutex_lock(&table.lock);
  for (size_t i = count; i-- > 0;) {
    calls[i]->next = table.idle;
    table.idle = calls[i];
  }
  table.out -= (uint32_t)count;
  pthread_mutex_unlock(&table.lock);
}

/* The call that a key named once; it may be closed by now, or another one. */
struct tc_call *tc_call_named(uint64_t key) {
  uint32_t number = key & ((1 << TC_NUMBER_BITS) - 1);
  return &atomic_load_explicit(&table.chunks[number / CHUNK], memory_order_acquire)[number % CHUNK];
}

/* Calls that are not done and may ask this allocator yet. */
uint64_t tc_calls_using(TRITONSERVER_ResponseAllocator *allocator) {
  pthread_mutex_lock(&table.lock);
  uint32_t made = table.made;
  pthread_mutex_unlock(&table.lock);
  uint64_t count = 0;
  for (uint32_t number = 0; number < made; number++) {
    struct tc_call *call = tc_call_named(number);
    pthread_mutex_lock(&call->lock);
    count += call->key && !call->state.done && call->allocator == allocator;
    pthread_mutex_unlock(&call->lock);
  }
  return count;
}

uint32_t tc_calls_out(void) {
  pthread_mutex_lock(&table.lock);
  uint32_t out = table.out;
  pthread_mutex_unlock(&table.lock);
  return out;
}
