/* Errors: building Triton error objects, and what to do with one that nobody can receive. */
#include "errors.h"

#include <stdarg.h>
#include <stdio.h>

TRITONSERVER_Error* error_new(TRITONSERVER_Error_Code code, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return TRITONSERVER_ErrorNew(code, text);
}

TRITONSERVER_Error* error_no_memory(size_t byte_size) {
  return error_new(TRITONSERVER_ERROR_INTERNAL, "tritoncapi_test: out of host memory, %zu bytes asked for", byte_size);
}

void error_log(TRITONSERVER_Error* error, const char* doing) {
  if (error == NULL) return;
  char text[1280];
  snprintf(text, sizeof text, "tritoncapi_test: %s: %s", doing, TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
  error_drop(TRITONSERVER_LogMessage(TRITONSERVER_LOG_ERROR, __FILE__, __LINE__, text));
}

void error_drop(TRITONSERVER_Error* error) {
  if (error != NULL) TRITONSERVER_ErrorDelete(error);
}
