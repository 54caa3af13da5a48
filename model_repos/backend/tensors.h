/* Tensors: inputs gathered into one place, outputs opened there and delivered to where the caller wants them. */
#ifndef TRITONCAPI_TEST_TENSORS_H
#define TRITONCAPI_TEST_TENSORS_H

#include "job.h"

/* `data` is contiguous and aligned for its elements, in the place that input_gather was given. `byte_size` is the
 * size seen under the instance's host policy.
 */
typedef struct {
  TRITONBACKEND_Input* handle;
  const char* name;
  TRITONSERVER_DataType datatype;
  const int64_t* shape;
  uint32_t dims;
  uint64_t byte_size;
  uint32_t buffer_count;
  const void* data;
} input;

/* One output. The operation fills in the description; `data` is where it writes the values, in `data_place`. */
struct output {
  const char* name;
  TRITONSERVER_DataType datatype;
  const int64_t* shape;
  uint32_t dims;
  uint64_t byte_size;
  void* data;
  place data_place;
  bool opened;
  void* given; /* the buffer that the response allocator provided */
  place given_place;
};

/* The number of elements of a shape; an error where it is negative or does not fit. */
TRITONSERVER_Error* shape_count(const int64_t* shape, uint32_t dims, uint64_t* count);

/* Find an input and read its properties. NOT_FOUND when the request has no such input. */
TRITONSERVER_Error* input_find(job* work, const char* name, input* found);
/* Bring its buffers to `where`, without a copy if there is one buffer that can be used as it lies. */
TRITONSERVER_Error* input_gather(job* work, input* it, place where);
TRITONSERVER_Error* input_check_elements(const input* it, size_t element_size, uint64_t* count);

/* Get the caller's buffer for an output. With `data` still NULL it is set: to that buffer where code in
 * `data_place` can write it, else to scratch memory.
 */
TRITONSERVER_Error* output_open(job* work, TRITONBACKEND_Response* response, output* it);
/* Bring the values to the caller's buffer, and do there what the planted faults ask for. */
TRITONSERVER_Error* output_deliver(job* work, output* it);

#endif
