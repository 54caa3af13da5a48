/* A model instance: where it runs, its host policy, and what it holds between executions. */
#ifndef TRITONCAPI_TEST_INSTANCE_H
#define TRITONCAPI_TEST_INSTANCE_H

#include "config.h"
#include "memory.h"
#include "sequences.h"
#include "triton_api.h"

typedef struct {
  TRITONBACKEND_ModelInstance* handle;
  const config* config; /* the model's, which outlives its instances */
  char* name;
  char* host_policy;
  bool passive;
  place place; /* where it computes and prefers its outputs: the host or its GPU */
  gpu* gpu;    /* NULL on a CPU instance, except that a planted GPU leak gives it GPU 0 to leak on */
  scratch host_scratch;
  scratch gpu_scratch; /* on the GPU of a GPU instance */
  sequences sequences;
} instance;

TRITONSERVER_Error* instance_open(TRITONBACKEND_ModelInstance* handle, const config* model, instance** opened);
void instance_close(instance* it);

/* The GPU to compute on, NULL on a CPU instance. */
const gpu* instance_gpu(const instance* it);
TRITONSERVER_Error* instance_leak_gpu(const instance* it, uint64_t byte_size);

#endif
