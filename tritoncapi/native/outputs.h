/* Outputs of responses, as Python reads them. */
#ifndef TRITONCAPI_OUTPUTS_H
#define TRITONCAPI_OUTPUTS_H

#include "triton.h"

enum { TC_DIMS = 8, TC_NAME = 40, TC_LOOK = 4 };

struct tc_output_kind {
  size_t byte_size;
  uint64_t dims;
  int64_t device;
  int32_t datatype, memory_type;
  int64_t sizes[TC_DIMS];   /* the shape, if it fits, else zeros */
  char short_name[TC_NAME]; /* the name, if it fits, else empty */
};

/* Outputs that are read as soon as the response is there, for who reads them each time. */
struct tc_look {
  int64_t count;    /* -1: they do not fit in here, or Triton refuses to say */
  uint64_t version; /* of the kinds: another one, other kinds */
  struct {
    const void *base;
    void *userp;
  } at[TC_LOOK];
  struct tc_output_kind kinds[TC_LOOK];
};

void tc_outputs_look(TRITONSERVER_InferenceResponse *response, struct tc_look *look);

#endif
