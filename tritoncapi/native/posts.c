/* Posts: many requests submitted in one call from Python, whose answers come through an inbox. */
#define _GNU_SOURCE
#include "calls.h"

struct tc_run;
TRITONSERVER_Error *tc_call_post(struct tc_run *run, struct tc_inbox *inbox);

/* Submits them all, whatever becomes of each. `errors[i]` is what Triton refused one with, or NULL. Returns how many it
 * refused. */
size_t tc_calls_post(struct tc_run **runs, TRITONSERVER_Error **errors, size_t count, struct tc_inbox *inbox) {
  size_t refused = 0;
  for (size_t i = 0; i < count; i++) {
    errors[i] = tc_call_post(runs[i], inbox);
    refused += errors[i] != NULL;
  }
  return refused;
}
