/* Configuration: what this backend takes from a model's configuration, read once and then constant. */
#ifndef TRITONCAPI_TEST_CONFIG_H
#define TRITONCAPI_TEST_CONFIG_H

#include "faults.h"
#include "triton_api.h"

typedef struct operation operation;

typedef struct {
  char* model_name;
  const operation* operation;
  faults faults;
  uint64_t execute_delay_ms;
  uint64_t instance_delay_ms;
  uint64_t finalize_delay_ms;
  uint64_t scratch_bytes;
  bool batching; /* max_batch_size > 0: the first dimension is the batch */
  bool decoupled;
  uint64_t sequence_idle_us;
  size_t input_count;
  char** inputs; /* names, in the configuration's order */
  size_t output_count;
} config;

TRITONSERVER_Error* config_read(TRITONBACKEND_Model* model, config** read);
void config_free(config* it);
bool config_has_input(const config* it, const char* name);

#endif
