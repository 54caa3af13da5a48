/* Memory for outputs: new, or kept from an output before. */
#ifndef TRITONCAPI_POOL_H
#define TRITONCAPI_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tc_shelf;

struct tc_pool {
  pthread_mutex_t lock;
  bool keeps; /* what comes back is kept for the next one of that size and place */
  struct tc_shelf *shelves;
  uint64_t reused;
};

/* Each returns NULL, or a static or thread-local sentence that says what failed. */
const char *tc_pool_take(struct tc_pool *pool, int memory_type, int64_t id, size_t byte_size, void **buffer);
const char *tc_pool_give(struct tc_pool *pool, int memory_type, int64_t id, size_t byte_size, void *buffer);
const char *tc_pool_reserve(struct tc_pool *pool, int memory_type, int64_t id, size_t byte_size, size_t count);
const char *tc_pool_drain(struct tc_pool *pool); /* frees what is kept */

#endif
