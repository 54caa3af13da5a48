/* Once: a request made, sent, answered and deleted again in one call from Python. */
#define _GNU_SOURCE
#include "calls.h"
#include "outputs.h"
#include "turn.h"

/* One input of a form: all that requests of one kind share. */
struct tc_input {
  const char *name;
  const int64_t *shape;
  uint64_t dims;
  size_t byte_size;
  int64_t device;
  int datatype, memory_type;
};

struct tc_once {
  TRITONSERVER_Server *server;
  const char *model;
  int64_t version;
  const struct tc_input *inputs;
  const char *const *arrays; /* what holds the address of an input's data: contiguous NumPy arrays of the caller's, ... */
  size_t count;              /* of inputs, and arrays */
  size_t data_at;            /* ... and where in it that lies */
  TRITONSERVER_ResponseAllocator *allocator;
  void *allocator_userp;
  int64_t timeout_ns;
  struct tc_look *look; /* where the outputs go */
  /* Results */
  const char *call;                       /* that made the error */
  TRITONSERVER_InferenceRequest *request; /* the caller's when it goes on */
  uint64_t key;                           /* of the call when it goes on, else 0 */
  struct tc_answer answer;
};

static TRITONSERVER_Error *give_inputs(struct tc_once *once) {
  for (size_t i = 0; i < once->count; i++) {
    const struct tc_input *input = &once->inputs[i];
    once->call = "InferenceRequestAddInput";
    TRITONSERVER_Error *error = tc_triton.InferenceRequestAddInput(
        once->request, input->name, input->datatype, input->shape, input->dims);
    if (error) return error;
    const void *data = *(const void *const *)(once->arrays[i] + once->data_at);
    once->call = "InferenceRequestAppendInputData";
    error = tc_triton.InferenceRequestAppendInputData(
        once->request, input->name, data, input->byte_size, input->memory_type, input->device);
    if (error) return error;
  }
  return NULL;
}

static void delete_request(struct tc_once *once) {
  TRITONSERVER_Error *error = tc_triton.InferenceRequestDelete(once->request);
  if (error) tc_triton.ErrorDelete(error); /* the one before it says more */
  once->request = NULL;
}

static TRITONSERVER_Error *run(struct tc_once *once) {
  once->request = NULL;
  once->answer.response = NULL;
  once->key = 0;
  once->call = "InferenceRequestNew";
  TRITONSERVER_Error *error =
      tc_triton.InferenceRequestNew(&once->request, once->server, once->model, once->version);
  if (error) return error;
  error = give_inputs(once);
  struct tc_call *call;
  if (!error && !tc_calls_reserve(&call, 1)) error = tc_calls_exhausted();
  if (error) {
    delete_request(once);
    return error;
  }
  once->call = "TRITONSERVER_ServerInferAsync";
  error = tc_call_begin(
      call, once->server, once->request, once->allocator, once->allocator_userp, NULL, NULL, NULL, &once->key);
  if (!error && !tc_call_await_answer(call, once->key, once->timeout_ns, &once->answer)) return NULL;
  once->key = 0;
  if (!error && !once->answer.failed) tc_outputs_look(once->answer.response, once->look);
  tc_calls_put_back(&call, 1);
  delete_request(once);
  return error;
}

/* Returns what Triton refused, and then `call` says where, or NULL. With a whole answer in time its response is the
 * caller's and the request is gone; else `request` and `key` are the caller's, who goes on with them. */
TRITONSERVER_Error *tc_once_run(struct tc_once *once) {
  tc_turn_end();
  TRITONSERVER_Error *error = run(once);
  tc_turn_begin();
  return error;
}
