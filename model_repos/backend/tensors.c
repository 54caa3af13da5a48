/* Tensors: inputs gathered into one place, outputs opened there and delivered to where the caller wants them. */
#include "tensors.h"

#include <string.h>

#include "errors.h"

enum { ELEMENT_ALIGNMENT = 4 }; /* of the widest type that is computed with; others are only copied */

TRITONSERVER_Error* shape_count(const int64_t* shape, uint32_t dims, uint64_t* count) {
  *count = 1;
  for (uint32_t i = 0; i < dims; i++) {
    if (shape[i] < 0 || __builtin_mul_overflow(*count, (uint64_t)shape[i], count)) {
      return error_new(TRITONSERVER_ERROR_INVALID_ARG, "dimension %u of a shape is %lld", i, (long long)shape[i]);
    }
  }
  return NULL;
}

/* NULL where the buffers without a policy are to be used. */
static const char* policy(const job* work) {
  return work->instance->config->faults.on[FAULT_IGNORE_HOST_POLICY] ? NULL : work->instance->host_policy;
}

TRITONSERVER_Error* input_find(job* work, const char* name, input* found) {
  memset(found, 0, sizeof *found);
  TRY(TRITONBACKEND_RequestInput(work->request, name, &found->handle));
  if (policy(work) == NULL) {
    return TRITONBACKEND_InputProperties(found->handle, &found->name, &found->datatype, &found->shape, &found->dims,
                                         &found->byte_size, &found->buffer_count);
  }
  return TRITONBACKEND_InputPropertiesForHostPolicy(found->handle, policy(work), &found->name, &found->datatype,
                                                    &found->shape, &found->dims, &found->byte_size,
                                                    &found->buffer_count);
}

typedef struct {
  const void* base;
  uint64_t byte_size;
  place where;
} piece;

static TRITONSERVER_Error* read_piece(const job* work, const input* it, uint32_t index, piece* read) {
  if (policy(work) == NULL) {
    return TRITONBACKEND_InputBuffer(it->handle, index, &read->base, &read->byte_size, &read->where.type,
                                     &read->where.id);
  }
  return TRITONBACKEND_InputBufferForHostPolicy(it->handle, policy(work), index, &read->base, &read->byte_size,
                                                &read->where.type, &read->where.id);
}

static bool aligned(const void* base) { return (uintptr_t)base % ELEMENT_ALIGNMENT == 0; }

static scratch* scratch_in(job* work, place where) {
  return where.type == TRITONSERVER_MEMORY_GPU ? &work->instance->gpu_scratch : &work->instance->host_scratch;
}

TRITONSERVER_Error* input_gather(job* work, input* it, place where) {
  work->input_buffers += it->buffer_count;
  if (it->buffer_count == 1) {
    piece only;
    TRY(read_piece(work, it, 0, &only));
    it->data = only.base;
    if (only.base != NULL && place_reaches(where, only.where) && aligned(only.base)) return NULL;
  }
  void* whole;
  TRY(scratch_take(scratch_in(work, where), it->byte_size, &whole));
  uint64_t filled = 0;
  for (uint32_t i = 0; i < it->buffer_count; i++) {
    piece part;
    TRY(read_piece(work, it, i, &part));
    const bool dropped = i > 0 && i == it->buffer_count - 1 && work->instance->config->faults.on[FAULT_DROP_CHUNK];
    if (part.byte_size > it->byte_size - filled) {
      return error_new(TRITONSERVER_ERROR_INTERNAL, "the buffers of input '%s' hold more than its %llu bytes", it->name,
                       (unsigned long long)it->byte_size);
    }
    if (dropped) TRY(memory_zero(instance_gpu(work->instance), (char*)whole + filled, where, part.byte_size));
    else TRY(memory_copy(instance_gpu(work->instance), (char*)whole + filled, where, part.base, part.where,
                         part.byte_size));
    filled += part.byte_size;
  }
  if (filled != it->byte_size) {
    return error_new(TRITONSERVER_ERROR_INTERNAL, "the buffers of input '%s' hold %llu bytes of its %llu", it->name,
                     (unsigned long long)filled, (unsigned long long)it->byte_size);
  }
  it->data = whole;
  return NULL;
}

TRITONSERVER_Error* input_check_elements(const input* it, size_t element_size, uint64_t* count) {
  TRY(shape_count(it->shape, it->dims, count));
  uint64_t needed;
  if (__builtin_mul_overflow(*count, element_size, &needed) || needed != it->byte_size) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "input '%s' has %llu elements of %zu bytes but %llu bytes of data",
                     it->name, (unsigned long long)*count, element_size, (unsigned long long)it->byte_size);
  }
  return NULL;
}

static place preferred_place(const job* work) {
  const instance* owner = work->instance;
  if (!owner->config->faults.on[FAULT_WRONG_PREFERRED]) return owner->place;
  const TRITONSERVER_MemoryType type = (TRITONSERVER_MemoryType)owner->config->faults.value[FAULT_WRONG_PREFERRED];
  const bool own_gpu = type == TRITONSERVER_MEMORY_GPU && owner->place.type == TRITONSERVER_MEMORY_GPU;
  return (place){type, own_gpu ? owner->place.id : 0};
}

static TRITONSERVER_Error* planted_shape(job* work, const output* it, const int64_t** shape) {
  void* memory;
  TRY(scratch_take(&work->instance->host_scratch, it->dims * sizeof **shape, &memory));
  int64_t* doubled = memory;
  memcpy(doubled, it->shape, it->dims * sizeof *doubled);
  int64_t* last = &doubled[it->dims - 1];
  *last = *last == 0 ? 1 : *last * 2;
  *shape = doubled;
  return NULL;
}

/* The planted wrong device: the values go to memory of the backend's own, not to the allocator's buffer. */
static bool goes_astray(const job* work, const output* it) {
  const faults* planted = &work->instance->config->faults;
  if (!planted->on[FAULT_WRONG_DEVICE]) return false;
  return planted->any[FAULT_WRONG_DEVICE] || planted->value[FAULT_WRONG_DEVICE] == (uint64_t)it->given_place.type;
}

static TRITONSERVER_Error* deliver_elsewhere(job* work, const output* it) {
  const bool host = it->given_place.type == TRITONSERVER_MEMORY_GPU;
  const place where = host ? PLACE_HOST : work->instance->place;
  void* elsewhere;
  TRY(scratch_take(scratch_in(work, where), it->byte_size, &elsewhere));
  return memory_copy(instance_gpu(work->instance), elsewhere, where, it->data, it->data_place, it->byte_size);
}

TRITONSERVER_Error* output_open(job* work, TRITONBACKEND_Response* response, output* it) {
  const faults* planted = &work->instance->config->faults;
  const int64_t* shape = it->shape;
  if (planted->on[FAULT_WRONG_SHAPE] && it->dims > 0) TRY(planted_shape(work, it, &shape));
  TRITONBACKEND_Output* handle;
  TRY(TRITONBACKEND_ResponseOutput(response, &handle, it->name, it->datatype, shape, it->dims));
  it->given_place = preferred_place(work);
  TRY(TRITONBACKEND_OutputBuffer(handle, &it->given, it->byte_size, &it->given_place.type, &it->given_place.id));
  if (it->given == NULL && it->byte_size > 0) {
    return error_new(TRITONSERVER_ERROR_INTERNAL, "the allocator gave no buffer for output '%s'", it->name);
  }
  if (planted->on[FAULT_WRONG_REPORTED]) {
    TRITONSERVER_BufferAttributes* attributes;
    TRY(TRITONBACKEND_OutputBufferAttributes(handle, &attributes));
    TRY(TRITONSERVER_BufferAttributesSetMemoryType(attributes,
                                                   (TRITONSERVER_MemoryType)planted->value[FAULT_WRONG_REPORTED]));
  }
  it->opened = true;
  if (it->data != NULL) return NULL;
  if (it->given != NULL && place_reaches(it->data_place, it->given_place) && aligned(it->given) &&
      !goes_astray(work, it)) {
    it->data = it->given;
    return NULL;
  }
  return scratch_take(scratch_in(work, it->data_place), it->byte_size, &it->data);
}

/* Read (`back` false) or write a few bytes of a delivered output, wherever it lies. */
static TRITONSERVER_Error* touch(const gpu* own, const output* it, uint64_t offset, void* bytes, size_t count,
                                 bool back) {
  void* there = (char*)it->given + offset;
  if (back) TRY(memory_copy(own, there, it->given_place, bytes, PLACE_HOST, count));
  else TRY(memory_copy(own, bytes, PLACE_HOST, there, it->given_place, count));
  return own == NULL ? NULL : gpu_wait(own);
}

/* Falsify the first element: one more for numbers, another last digit for text. */
static TRITONSERVER_Error* falsify(const gpu* own, const output* it) {
  uint64_t offset = 0;
  size_t count = 1;
  const bool is_float = it->datatype == TRITONSERVER_TYPE_FP32;
  if (is_float || it->datatype == TRITONSERVER_TYPE_INT32 || it->datatype == TRITONSERVER_TYPE_UINT32) count = 4;
  if (it->datatype == TRITONSERVER_TYPE_BYTES) {
    uint32_t length;
    if (it->byte_size < sizeof length) return NULL;
    TRY(touch(own, it, 0, &length, sizeof length, false));
    if (length == 0 || length > it->byte_size - sizeof length) return NULL;
    offset = sizeof length + length - 1;
  }
  if (it->byte_size < offset + count) return NULL;
  union {
    uint32_t whole;
    float real;
    unsigned char first;
  } value = {0};
  TRY(touch(own, it, offset, &value, count, false));
  if (is_float) value.real += 1.0f;
  else if (count == 4) value.whole += 1;
  else if (value.first >= '0' && value.first <= '9') value.first = (unsigned char)('0' + (value.first - '0' + 1) % 10);
  else value.first = (unsigned char)(value.first + 1);
  return touch(own, it, offset, &value, count, true);
}

TRITONSERVER_Error* output_deliver(job* work, output* it) {
  const faults* planted = &work->instance->config->faults;
  const gpu* own = instance_gpu(work->instance);
  if (goes_astray(work, it)) return deliver_elsewhere(work, it);
  if (planted->on[FAULT_LOG_COPY_ERROR]) {
    TRY(TRITONSERVER_LogMessage(TRITONSERVER_LOG_ERROR, __FILE__, __LINE__, "failed to copy data: planted"));
  }
  if (planted->on[FAULT_LOG_COPY_ERROR] || planted->on[FAULT_ZERO_OUTPUT]) {
    TRY(memory_zero(own, it->given, it->given_place, it->byte_size));
  } else if (it->data != it->given) {
    TRY(memory_copy(own, it->given, it->given_place, it->data, it->data_place, it->byte_size));
  }
  const bool false_type = planted->any[FAULT_WRONG_VALUES] || planted->value[FAULT_WRONG_VALUES] == it->datatype;
  return planted->on[FAULT_WRONG_VALUES] && false_type && it->byte_size > 0 ? falsify(own, it) : NULL;
}
