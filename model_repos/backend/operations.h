/* Operations: what a model computes, each as three steps that an execution takes for all its requests in turn. */
#ifndef TRITONCAPI_TEST_OPERATIONS_H
#define TRITONCAPI_TEST_OPERATIONS_H

#include "job.h"
#include "triton_api.h"

struct operation {
  const char* name;
  /* Read and gather the inputs; open the outputs whose size is known by now. */
  TRITONSERVER_Error* (*prepare)(job* work);
  /* Compute into the outputs' data. NULL: nothing to compute. */
  TRITONSERVER_Error* (*compute)(job* work);
  /* Send all responses but the final flags. NULL: one response with the job's outputs. */
  TRITONSERVER_Error* (*answer)(job* work);
};

/* By name; NULL stands for the default. INVALID_ARG for a name that is none. */
TRITONSERVER_Error* operation_find(const char* name, const operation** found);

extern const operation operation_add_sub;
extern const operation operation_identity;
extern const operation operation_accumulate;
extern const operation operation_repeat;

#endif
