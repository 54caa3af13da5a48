/* The operation add_sub: OUTPUT0 = INPUT0 + INPUT1 and OUTPUT1 = INPUT0 - INPUT1, for INT32, FP32 and BYTES. */
#include <stdio.h>
#include <string.h>

#include "errors.h"
#include "operations.h"
#include "tensors.h"

typedef struct {
  input left, right;
  uint64_t count;
} operands;

/* Most characters of a 64-bit number as text, and the length that stands before them. */
enum { LONGEST_NUMBER = 20, LENGTH_SIZE = 4 };

static TRITONSERVER_Error* check_pair(const operands* it) {
  const input* left = &it->left;
  const input* right = &it->right;
  if (left->datatype != right->datatype) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "add_sub needs two inputs of one datatype, not %d and %d",
                     (int)left->datatype, (int)right->datatype);
  }
  if (left->datatype != TRITONSERVER_TYPE_INT32 && left->datatype != TRITONSERVER_TYPE_FP32 &&
      left->datatype != TRITONSERVER_TYPE_BYTES) {
    return error_new(TRITONSERVER_ERROR_UNSUPPORTED, "add_sub takes INT32, FP32 and BYTES, not datatype %d",
                     (int)left->datatype);
  }
  if (left->dims != right->dims || memcmp(left->shape, right->shape, left->dims * sizeof *left->shape) != 0) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "add_sub needs two inputs of one shape");
  }
  return NULL;
}

static bool is_difference(const output* it) { return strcmp(it->name, "OUTPUT1") == 0; }

static TRITONSERVER_Error* prepare(job* work) {
  void* memory;
  TRY(scratch_take(&work->instance->host_scratch, sizeof(operands), &memory));
  operands* it = work->state = memory;
  TRY(input_find(work, "INPUT0", &it->left));
  TRY(input_find(work, "INPUT1", &it->right));
  TRY(check_pair(it));
  const bool text = it->left.datatype == TRITONSERVER_TYPE_BYTES;
  work->computed = text ? PLACE_HOST : work->instance->place;
  TRY(input_gather(work, &it->left, work->computed));
  TRY(input_gather(work, &it->right, work->computed));
  if (text) {
    TRY(shape_count(it->left.shape, it->left.dims, &it->count));
  } else {
    TRY(input_check_elements(&it->left, 4, &it->count));
    TRY(input_check_elements(&it->right, 4, &it->count));
  }

  TRY(job_list_outputs(work));
  for (uint32_t i = 0; i < work->output_count; i++) {
    output* out = &work->outputs[i];
    if (strcmp(out->name, "OUTPUT0") != 0 && !is_difference(out)) {
      return error_new(TRITONSERVER_ERROR_INVALID_ARG, "add_sub has OUTPUT0 and OUTPUT1 but no '%s'", out->name);
    }
    out->datatype = it->left.datatype;
    out->shape = it->left.shape;
    out->dims = it->left.dims;
    out->byte_size = it->left.byte_size;
    if (!text) TRY(output_open(work, work->response, out)); /* the size of text is known once it is computed */
  }
  return NULL;
}

static void compute_int32(const operands* it, uint32_t* result, bool difference) {
  /* Unsigned, because overflow shall wrap as it does on a GPU. */
  const uint32_t* left = it->left.data;
  const uint32_t* right = it->right.data;
  if (difference) {
    for (uint64_t i = 0; i < it->count; i++) result[i] = left[i] - right[i];
  } else {
    for (uint64_t i = 0; i < it->count; i++) result[i] = left[i] + right[i];
  }
}

static void compute_fp32(const operands* it, float* result, bool difference) {
  const float* left = it->left.data;
  const float* right = it->right.data;
  if (difference) {
    for (uint64_t i = 0; i < it->count; i++) result[i] = left[i] - right[i];
  } else {
    for (uint64_t i = 0; i < it->count; i++) result[i] = left[i] + right[i];
  }
}

/* What is left to read of a BYTES tensor. */
typedef struct {
  const char* name;
  const unsigned char* at;
  uint64_t left;
} cursor;

static uint32_t read_length(const unsigned char* at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static bool read_decimal(const unsigned char* text, uint32_t length, int64_t* value) {
  uint32_t i = length > 0 && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  const int sign = i == 1 && text[0] == '-' ? -1 : 1;
  if (i == length) return false;
  *value = 0;
  for (; i < length; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    if (__builtin_mul_overflow(*value, 10, value)) return false;
    if (__builtin_add_overflow(*value, sign * (text[i] - '0'), value)) return false;
  }
  return true;
}

static TRITONSERVER_Error* next_number(cursor* from, int64_t* value) {
  const uint32_t length = from->left < LENGTH_SIZE ? UINT32_MAX : read_length(from->at);
  if (from->left < LENGTH_SIZE || length > from->left - LENGTH_SIZE) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "input '%s' ends within an element", from->name);
  }
  const unsigned char* text = from->at + LENGTH_SIZE;
  if (!read_decimal(text, length, value)) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "input '%s' has an element that is no 64-bit decimal: '%.*s'",
                     from->name, length > 40 ? 40 : (int)length, (const char*)text);
  }
  from->at += LENGTH_SIZE + length;
  from->left -= LENGTH_SIZE + length;
  return NULL;
}

static TRITONSERVER_Error* compute_text(job* work, const operands* it, output* out) {
  void* memory;
  /* Each element has a length prefix, so more elements than this is a mistake that next_number will name. */
  const uint64_t bound = it->count < it->left.byte_size ? it->count : it->left.byte_size;
  TRY(scratch_take(&work->instance->host_scratch, bound * (LENGTH_SIZE + LONGEST_NUMBER) + 1, &memory));
  unsigned char* to = memory;
  cursor left = {it->left.name, it->left.data, it->left.byte_size};
  cursor right = {it->right.name, it->right.data, it->right.byte_size};
  for (uint64_t i = 0; i < it->count; i++) {
    int64_t a, b, value;
    TRY(next_number(&left, &a));
    TRY(next_number(&right, &b));
    if (is_difference(out) ? __builtin_sub_overflow(a, b, &value) : __builtin_add_overflow(a, b, &value)) {
      return error_new(TRITONSERVER_ERROR_INVALID_ARG, "element %llu of output '%s' does not fit 64 bits",
                       (unsigned long long)i, out->name);
    }
    char text[LONGEST_NUMBER + 1];
    const uint32_t length = (uint32_t)snprintf(text, sizeof text, "%lld", (long long)value);
    for (int byte = 0; byte < LENGTH_SIZE; byte++) *to++ = (unsigned char)(length >> (8 * byte));
    memcpy(to, text, length);
    to += length;
  }
  if (left.left > 0 || right.left > 0) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "input '%s' has more elements than its shape says",
                     left.left > 0 ? left.name : right.name);
  }
  out->data = memory;
  out->byte_size = (uint64_t)(to - (unsigned char*)memory);
  return NULL;
}

static TRITONSERVER_Error* launch(const gpu* device, const operands* it, const output* out) {
  const bool real = out->datatype == TRITONSERVER_TYPE_FP32;
  const gpu_kernel kernel = is_difference(out) ? (real ? KERNEL_SUB_F32 : KERNEL_SUB_S32)
                                               : (real ? KERNEL_ADD_F32 : KERNEL_ADD_S32);
  return gpu_launch(device, kernel, (cu_address)(uintptr_t)out->data, (cu_address)(uintptr_t)it->left.data,
                    (cu_address)(uintptr_t)it->right.data, it->count);
}

static TRITONSERVER_Error* compute(job* work) {
  const operands* it = work->state;
  for (uint32_t i = 0; i < work->output_count; i++) {
    output* out = &work->outputs[i];
    if (out->datatype == TRITONSERVER_TYPE_BYTES) TRY(compute_text(work, it, out));
    else if (work->computed.type == TRITONSERVER_MEMORY_GPU) TRY(launch(instance_gpu(work->instance), it, out));
    else if (out->datatype == TRITONSERVER_TYPE_FP32) compute_fp32(it, out->data, is_difference(out));
    else compute_int32(it, out->data, is_difference(out));
  }
  return NULL;
}

const operation operation_add_sub = {"add_sub", prepare, compute, NULL};
