/* Planted faults: what a model's `fault` parameter asks for, and the acts that need no tensor. */
#ifndef TRITONCAPI_TEST_FAULTS_H
#define TRITONCAPI_TEST_FAULTS_H

#include "triton_api.h"

typedef enum {
  FAULT_FAIL_MODEL_INIT,
  FAULT_FAIL_INSTANCE_INIT,
  FAULT_FAIL_EXECUTE,
  FAULT_FAIL_REQUEST,
  FAULT_WRONG_VALUES,
  FAULT_ZERO_OUTPUT,
  FAULT_WRONG_PREFERRED,
  FAULT_WRONG_REPORTED,
  FAULT_WRONG_SHAPE,
  FAULT_IGNORE_HOST_POLICY,
  FAULT_WRONG_DEVICE,
  FAULT_DROP_CHUNK,
  FAULT_DROP_OUTPUT,
  FAULT_LEAK_HOST,
  FAULT_LEAK_GPU,
  FAULT_LEAK_HOST_LOAD,
  FAULT_LEAK_GPU_LOAD,
  FAULT_LEAK_FD,
  FAULT_LEAK_FD_LOAD,
  FAULT_NO_ANSWER,
  FAULT_NEVER_RELEASE,
  FAULT_ANSWER_TWICE,
  FAULT_HANG,
  FAULT_HANG_FINALIZE,
  FAULT_CRASH,
  FAULT_ABORT,
  FAULT_CRASH_INIT,
  FAULT_LOG_COPY_ERROR,
  FAULT_COUNT
} fault;

typedef struct {
  bool on[FAULT_COUNT];
  uint64_t value[FAULT_COUNT]; /* bytes, a period, a TRITONSERVER_MemoryType or a TRITONSERVER_DataType, by fault */
  bool any[FAULT_COUNT];       /* no value was given: where one would restrict the fault, it is for all */
} faults;

/* Reads "name,name:value,..."; an unknown name or a value out of place is INVALID_ARG. */
TRITONSERVER_Error* faults_parse(const char* text, faults* parsed);

/* The error that a planted failure reports, recognisable as such. */
TRITONSERVER_Error* fault_error(fault which);

void fault_crash(void);
void fault_hang(void);
/* Lose `byte_size` bytes, every page written so that they count as resident. */
TRITONSERVER_Error* fault_leak_host(uint64_t byte_size);
TRITONSERVER_Error* fault_leak_descriptor(void);

#endif
