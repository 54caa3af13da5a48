/* A job: one request of an execution, from its arrival to its release. */
#ifndef TRITONCAPI_TEST_JOB_H
#define TRITONCAPI_TEST_JOB_H

#include "instance.h"
#include "triton_api.h"

typedef struct output output;

typedef struct {
  instance* instance;
  TRITONBACKEND_Request* request;
  TRITONBACKEND_Response* response;       /* the one to come, unless the operation sends its own */
  TRITONBACKEND_ResponseFactory* factory; /* of an operation that sends its own responses */
  TRITONSERVER_Error* error;              /* the first thing that went wrong; NULL so far */
  bool failed;                            /* what the statistics are told; outlives `error` */
  bool finished;                          /* answered and released */
  place computed;                         /* where the operation ran */
  uint32_t input_buffers;
  uint64_t batch;
  output* outputs;
  uint32_t output_count;
  void* state; /* the operation's, between its steps; scratch memory */
} job;

TRITONSERVER_Error* job_begin(job* it, instance* owner, TRITONBACKEND_Request* request);
/* The outputs that the request wants: names in `outputs`, the rest zero. The fault drop_output loses the last. */
TRITONSERVER_Error* job_list_outputs(job* it);
bool job_cancelled(const job* it);

/* Send the answer: the response, or the error if there is one. */
void job_answer(job* it);
void job_release(job* it);

#endif
