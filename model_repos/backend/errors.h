/* Errors: building Triton error objects, and what to do with one that nobody can receive. */
#ifndef TRITONCAPI_TEST_ERRORS_H
#define TRITONCAPI_TEST_ERRORS_H

#include "triton_api.h"

/* Return from the calling function with the error of `expression`, if it has one. */
#define TRY(expression)                               \
  do {                                                \
    TRITONSERVER_Error* try_error_ = (expression);    \
    if (try_error_ != NULL) return try_error_;        \
  } while (0)

/* An error with a formatted message; the caller owns it. */
TRITONSERVER_Error* error_new(TRITONSERVER_Error_Code code, const char* format, ...)
    __attribute__((format(printf, 2, 3)));
TRITONSERVER_Error* error_no_memory(size_t byte_size);

/* Log `error` at level ERROR, saying what was being done, and delete it. NULL is fine. */
void error_log(TRITONSERVER_Error* error, const char* doing);
/* Delete without a word, for calls whose failure is an answer rather than a fault. */
void error_drop(TRITONSERVER_Error* error);

#endif
