/* Responses: making, describing and sending them, with the statistics of single responses of decoupled models. */
#include "response.h"

#include <stdio.h>

#include "errors.h"
#include "timing.h"

TRITONSERVER_Error* response_new(const job* work, TRITONBACKEND_Response** made) {
  if (work->factory != NULL) return TRITONBACKEND_ResponseNewFromFactory(made, work->factory);
  return TRITONBACKEND_ResponseNew(made, work->request);
}

static TRITONSERVER_Error* describe(const job* work, TRITONBACKEND_Response* response) {
  const instance* owner = work->instance;
  char where[32] = "cpu";
  if (work->computed.type == TRITONSERVER_MEMORY_GPU) {
    snprintf(where, sizeof where, "gpu:%lld", (long long)work->computed.id);
  }
  TRY(TRITONBACKEND_ResponseSetStringParameter(response, "computed_on", where));
  TRY(TRITONBACKEND_ResponseSetStringParameter(response, "host_policy", owner->host_policy));
  TRY(TRITONBACKEND_ResponseSetStringParameter(response, "instance", owner->name));
  return TRITONBACKEND_ResponseSetIntParameter(response, "input_buffers", work->input_buffers);
}

void response_send(const job* work, TRITONBACKEND_Response* response, uint32_t flags, TRITONSERVER_Error* error) {
  error_log(describe(work, response), "setting response parameters");
  error_log(TRITONBACKEND_ResponseSend(response, flags, error), "sending a response");
}

void response_send_final_flag(const job* work) {
  error_log(TRITONBACKEND_ResponseFactorySendFlags(work->factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL),
            "sending the final flag");
}

static TRITONSERVER_Error* fill(TRITONBACKEND_ModelInstanceResponseStatistics* it, const job* work, uint64_t start_ns,
                                uint64_t output_start_ns, TRITONSERVER_Error* error) {
  TRY(TRITONBACKEND_ModelInstanceResponseStatisticsSetModelInstance(it, work->instance->handle));
  TRY(TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseFactory(it, work->factory));
  TRY(TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseStart(it, start_ns));
  if (output_start_ns != 0) {
    TRY(TRITONBACKEND_ModelInstanceResponseStatisticsSetComputeOutputStart(it, output_start_ns));
  }
  TRY(TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseEnd(it, now_ns()));
  if (error != NULL) TRY(TRITONBACKEND_ModelInstanceResponseStatisticsSetError(it, error));
  return TRITONBACKEND_ModelInstanceReportResponseStatistics(it);
}

void response_report(const job* work, uint64_t start_ns, uint64_t output_start_ns, TRITONSERVER_Error* error) {
  TRITONBACKEND_ModelInstanceResponseStatistics* it = NULL;
  TRITONSERVER_Error* problem = TRITONBACKEND_ModelInstanceResponseStatisticsNew(&it);
  if (problem == NULL) problem = fill(it, work, start_ns, output_start_ns, error);
  error_log(problem, "reporting response statistics");
  if (it != NULL) {
    error_log(TRITONBACKEND_ModelInstanceResponseStatisticsDelete(it), "deleting response statistics");
  }
}
