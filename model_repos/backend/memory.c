/* Memory: places it can be in, copies between them, and scratch space that lives for one execution. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "errors.h"

enum { ALIGNMENT = 256 };

const place PLACE_HOST = {TRITONSERVER_MEMORY_CPU, 0};

static bool on_gpu(place where) { return where.type == TRITONSERVER_MEMORY_GPU; }

static int64_t ordinal(place where) { return on_gpu(where) ? where.id : -1; }

bool place_reaches(place worker, place where) { return ordinal(worker) == ordinal(where); }

TRITONSERVER_Error* memory_copy(const gpu* own, void* to, place to_place, const void* from, place from_place,
                                size_t byte_size) {
  if (byte_size == 0) return NULL;
  if (to == NULL || from == NULL) {
    return error_new(TRITONSERVER_ERROR_INTERNAL, "a buffer of %zu bytes has no address", byte_size);
  }
  if (on_gpu(to_place) || on_gpu(from_place)) {
    return gpu_copy(own, to, ordinal(to_place), from, ordinal(from_place), byte_size);
  }
  memcpy(to, from, byte_size);
  return NULL;
}

TRITONSERVER_Error* memory_zero(const gpu* own, void* to, place to_place, size_t byte_size) {
  if (byte_size == 0) return NULL;
  if (on_gpu(to_place)) return gpu_zero(own, to, to_place.id, byte_size);
  memset(to, 0, byte_size);
  return NULL;
}

struct scratch_extra {
  uintptr_t memory;
  scratch_extra* next;
};

static TRITONSERVER_Error* allocate(const gpu* device, size_t byte_size, uintptr_t* memory) {
  if (device != NULL) {
    cu_address address;
    TRY(gpu_allocate(device, byte_size, &address));
    *memory = (uintptr_t)address;
    return NULL;
  }
  void* host = malloc(byte_size);
  if (host == NULL) return error_no_memory(byte_size);
  *memory = (uintptr_t)host;
  return NULL;
}

static void deallocate(const gpu* device, uintptr_t memory) {
  if (device != NULL) gpu_release(device, memory);
  else free((void*)memory);
}

TRITONSERVER_Error* scratch_open(scratch* it, const gpu* device, size_t byte_size) {
  memset(it, 0, sizeof *it);
  it->device = device;
  if (byte_size == 0) return NULL;
  TRY(allocate(device, byte_size, &it->reserve));
  it->size = byte_size;
  /* What is reported as used should also be resident. */
  if (device == NULL) memset((void*)it->reserve, 0, byte_size);
  return NULL;
}

void scratch_close(scratch* it) {
  scratch_reset(it);
  if (it->size > 0) deallocate(it->device, it->reserve);
  it->size = 0;
}

TRITONSERVER_Error* scratch_take(scratch* it, size_t byte_size, void** piece) {
  if (byte_size == 0) byte_size = 1; /* so that an empty tensor has an address too */
  const uintptr_t here = it->reserve + it->used;
  const size_t padding = (size_t)((ALIGNMENT - here % ALIGNMENT) % ALIGNMENT);
  const size_t left = it->size - it->used;
  if (padding <= left && byte_size <= left - padding) {
    it->used += padding + byte_size;
    *piece = (void*)(here + padding);
    return NULL;
  }
  scratch_extra* extra = malloc(sizeof *extra);
  if (extra == NULL) return error_no_memory(sizeof *extra);
  TRITONSERVER_Error* error = allocate(it->device, byte_size, &extra->memory);
  if (error != NULL) {
    free(extra);
    return error;
  }
  extra->next = it->extra;
  it->extra = extra;
  *piece = (void*)extra->memory;
  return NULL;
}

void scratch_reset(scratch* it) {
  while (it->extra != NULL) {
    scratch_extra* next = it->extra->next;
    deallocate(it->device, it->extra->memory);
    free(it->extra);
    it->extra = next;
  }
  it->used = 0;
}
