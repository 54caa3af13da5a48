/* The backend's entry points: what Triton calls, each a thin step into models, instances and executions. */
#include <stddef.h>

#include "config.h"
#include "errors.h"
#include "execute.h"
#include "faults.h"
#include "instance.h"
#include "timing.h"
#include "triton_api.h"

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  (void)backend;
  uint32_t major;
  uint32_t minor;
  TRY(TRITONBACKEND_ApiVersion(&major, &minor));
  if (major == BACKEND_API_MAJOR && minor >= BACKEND_API_MINOR) return NULL;
  return error_new(TRITONSERVER_ERROR_UNSUPPORTED,
                   "the backend tritoncapi_test needs backend API %u.%u or a later minor version; "
                   "this Triton has %u.%u",
                   BACKEND_API_MAJOR, BACKEND_API_MINOR, major, minor);
}

TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend* backend) {
  (void)backend;
  return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_GetBackendAttribute(TRITONBACKEND_Backend* backend,
                                                      TRITONBACKEND_BackendAttribute* attributes) {
  (void)backend;
  /* No preferred instance group: a model without one gets what Triton itself prefers. */
  return TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(attributes, true);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  config* read;
  TRY(config_read(model, &read));
  TRITONSERVER_Error* error = NULL;
  if (read->faults.on[FAULT_FAIL_MODEL_INIT]) error = fault_error(FAULT_FAIL_MODEL_INIT);
  if (error == NULL) error = TRITONBACKEND_ModelSetState(model, read);
  if (error != NULL) config_free(read); /* no state is set then, so that a finalise finds nothing */
  return error;
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  void* state;
  TRY(TRITONBACKEND_ModelState(model, &state));
  config_free(state);
  return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* handle) {
  TRITONBACKEND_Model* model;
  void* state;
  TRY(TRITONBACKEND_ModelInstanceModel(handle, &model));
  TRY(TRITONBACKEND_ModelState(model, &state));
  instance* opened;
  TRY(instance_open(handle, state, &opened));
  TRITONSERVER_Error* error = TRITONBACKEND_ModelInstanceSetState(handle, opened);
  if (error != NULL) instance_close(opened);
  return error;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* handle) {
  void* state;
  TRY(TRITONBACKEND_ModelInstanceState(handle, &state));
  instance* it = state;
  if (it == NULL) return NULL;
  if (!it->passive) {
    if (it->config->faults.on[FAULT_HANG_FINALIZE]) fault_hang();
    (void)sleep_ms(it->config->finalize_delay_ms, NULL, NULL);
  }
  instance_close(it);
  return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* handle,
                                                       TRITONBACKEND_Request** requests, const uint32_t request_count) {
  void* state;
  TRY(TRITONBACKEND_ModelInstanceState(handle, &state));
  return execute(state, requests, request_count);
}
