/* Sequences: the accumulator of every open sequence on one instance, by correlation ID. */
#ifndef TRITONCAPI_TEST_SEQUENCES_H
#define TRITONCAPI_TEST_SEQUENCES_H

#include "triton_api.h"

typedef struct sequence sequence;
typedef struct {
  sequence** buckets;
  size_t bucket_count;
  size_t open;
  uint64_t idle_ns; /* a sequence untouched for this long has been ended by the scheduler */
  size_t sweep_at;
} sequences;

TRITONSERVER_Error* sequences_open(sequences* it, uint64_t idle_us);
void sequences_close(sequences* it);

/* The accumulator of `id`, NULL when the sequence is not open here. Valid until the next call that changes `it`. */
int32_t* sequences_find(sequences* it, const char* id);
/* The same, opened at 0 if need be. */
TRITONSERVER_Error* sequences_start(sequences* it, const char* id, int32_t** accumulator);
void sequences_end(sequences* it, const char* id);

#endif
