/* Memory for outputs: new, or kept from an output before. */
#ifndef TRITONCAPI_POOL_H
#define TRITONCAPI_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tc_shelf;

/* What comes back is kept for the next one of that size and place. Whoever has the pool locks. */
struct tc_pool {
  struct tc_shelf *shelves;
  uint64_t reused;
};

void *tc_pool_take(struct tc_pool *pool, int memory_type, int64_t id, size_t byte_size); /* NULL: nothing is kept */
bool tc_pool_keep(struct tc_pool *pool, int memory_type, int64_t id, size_t byte_size, void *buffer);
const char *tc_pool_drain(struct tc_pool *pool); /* frees what is kept */

/* New memory, and its end. Each returns NULL, or a static or thread-local sentence that says what failed. */
const char *tc_memory_new(int memory_type, int64_t id, size_t byte_size, void **buffer);
const char *tc_memory_free(int memory_type, int64_t id, void *buffer);

#endif
