/* Pools: a cudaMalloc or a page-locked allocation costs more than most requests, and freeing one waits for the GPU. A
 * pool has a shelf for each place and size that it met; there are few, since a model's outputs have few sizes. */
#define _GNU_SOURCE
#include "pool.h"

#include <stdlib.h>

#include "gpu.h"
#include "triton.h"

struct tc_shelf {
  int memory_type;
  int64_t id;
  size_t byte_size;
  void **buffers;
  size_t count, capacity;
  struct tc_shelf *next;
};

const char *tc_memory_new(int memory_type, int64_t id, size_t byte_size, void **buffer) {
  switch (memory_type) {
    case TC_MEMORY_CPU:
      return posix_memalign(buffer, 64, byte_size) ? "out of host memory" : NULL;
    case TC_MEMORY_PINNED:
      return tc_pinned_alloc(byte_size, buffer);
    case TC_MEMORY_GPU:
      return tc_gpu_alloc((int)id, byte_size, buffer);
    default:
      return "unknown memory type";
  }
}

const char *tc_memory_free(int memory_type, int64_t id, void *buffer) {
  switch (memory_type) {
    case TC_MEMORY_PINNED:
      return tc_pinned_free(buffer);
    case TC_MEMORY_GPU:
      return tc_gpu_free((int)id, buffer);
    default:
      free(buffer);
      return NULL;
  }
}

static struct tc_shelf *shelf_for(struct tc_pool *pool, int memory_type, int64_t id, size_t byte_size) {
  for (struct tc_shelf *shelf = pool->shelves; shelf; shelf = shelf->next)
    if (shelf->byte_size == byte_size && shelf->memory_type == memory_type && shelf->id == id) return shelf;
  return NULL;
}

/* False without memory for the list. */
bool tc_pool_keep(struct tc_pool *pool, int memory_type, int64_t id, size_t byte_size, void *buffer) {
  struct tc_shelf *shelf = shelf_for(pool, memory_type, id, byte_size);
  if (!shelf) {
    shelf = calloc(1, sizeof *shelf);
    if (!shelf) return false;
    shelf->memory_type = memory_type;
    shelf->id = id;
    shelf->byte_size = byte_size;
    shelf->next = pool->shelves;
    pool->shelves = shelf;
  }
  if (shelf->count == shelf->capacity) {
    size_t capacity = shelf->capacity ? 2 * shelf->capacity : 16;
    void **grown = realloc(shelf->buffers, capacity * sizeof *grown);
    if (!grown) return false;
    shelf->buffers = grown;
    shelf->capacity = capacity;
  }
  shelf->buffers[shelf->count++] = buffer;
  return true;
}

void *tc_pool_take(struct tc_pool *pool, int memory_type, int64_t id, size_t byte_size) {
  struct tc_shelf *shelf = shelf_for(pool, memory_type, id, byte_size);
  if (!shelf || !shelf->count) return NULL;
  pool->reused++;
  return shelf->buffers[--shelf->count]; /* the last one in: it is the likeliest to be in a cache */
}

const char *tc_pool_drain(struct tc_pool *pool) {
  const char *first = NULL;
  for (struct tc_shelf *shelf = pool->shelves, *next; shelf; shelf = next) {
    next = shelf->next;
    for (size_t i = 0; i < shelf->count; i++) {
      const char *error = tc_memory_free(shelf->memory_type, shelf->id, shelf->buffers[i]);
      if (!first) first = error;
    }
    free(shelf->buffers);
    free(shelf);
  }
  pool->shelves = NULL;
  return first;
}
