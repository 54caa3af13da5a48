/* Configuration: what this backend takes from a model's configuration, read once and then constant. */
#define _POSIX_C_SOURCE 200809L
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "json.h"
#include "operations.h"

enum { DEFAULT_SCRATCH_BYTES = 64 * 1024, DEFAULT_SEQUENCE_IDLE_US = 1000000 };

/* A day; keeps nanosecond arithmetic far from overflow and catches a misplaced unit. */
static const uint64_t MAX_DELAY_MS = 86400000;
static const uint64_t MAX_SCRATCH_BYTES = UINT64_C(1) << 40;

static const char* parameter(const json* document, const char* key) {
  return json_text(json_get(json_get(json_get(document, "parameters"), key), "string_value"), NULL);
}

static TRITONSERVER_Error* number(const json* document, const char* key, uint64_t otherwise, uint64_t highest,
                                  uint64_t* value) {
  const char* text = parameter(document, key);
  *value = otherwise;
  if (text == NULL) return NULL;
  char* end;
  errno = 0;
  const unsigned long long got = strtoull(text, &end, 10);
  /* strtoull takes a sign and leading blanks; a parameter must be digits alone. */
  if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || got > highest) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG,
                     "malformed parameter %s = '%s': a whole number from 0 to %llu is needed", key, text,
                     (unsigned long long)highest);
  }
  *value = got;
  return NULL;
}

static TRITONSERVER_Error* read_inputs(const json* list, config* it) {
  const size_t count = json_count(list);
  it->inputs = calloc(count + 1, sizeof *it->inputs);
  if (it->inputs == NULL) return error_no_memory(count * sizeof *it->inputs);
  for (const json* one = list == NULL ? NULL : list->child; one != NULL; one = one->next) {
    char* name = strdup(json_text(json_get(one, "name"), ""));
    if (name == NULL) return error_no_memory(64);
    it->inputs[it->input_count++] = name;
  }
  return NULL;
}

static TRITONSERVER_Error* fill(const json* document, config* it) {
  TRY(operation_find(parameter(document, "operation"), &it->operation));
  const char* planted = parameter(document, "fault");
  TRY(faults_parse(planted == NULL ? "" : planted, &it->faults));
  TRY(number(document, "execute_delay_ms", 0, MAX_DELAY_MS, &it->execute_delay_ms));
  TRY(number(document, "instance_delay_ms", 0, MAX_DELAY_MS, &it->instance_delay_ms));
  TRY(number(document, "finalize_delay_ms", 0, MAX_DELAY_MS, &it->finalize_delay_ms));
  TRY(number(document, "scratch_bytes", DEFAULT_SCRATCH_BYTES, MAX_SCRATCH_BYTES, &it->scratch_bytes));
  it->batching = json_uint(json_get(document, "max_batch_size"), 0) > 0;
  it->decoupled = json_true(json_get(json_get(document, "model_transaction_policy"), "decoupled"));
  it->sequence_idle_us = json_uint(
      json_get(json_get(document, "sequence_batching"), "max_sequence_idle_microseconds"), DEFAULT_SEQUENCE_IDLE_US);
  it->output_count = json_count(json_get(document, "output"));
  TRY(read_inputs(json_get(document, "input"), it));
  if (it->operation->answer != NULL && !it->decoupled) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG,
                     "operation '%s' sends any number of responses: the model needs "
                     "model_transaction_policy { decoupled: true }",
                     it->operation->name);
  }
  return NULL;
}

TRITONSERVER_Error* config_read(TRITONBACKEND_Model* model, config** read) {
  const char* name;
  TRY(TRITONBACKEND_ModelName(model, &name));
  TRITONSERVER_Message* message;
  TRY(TRITONBACKEND_ModelConfig(model, 1, &message));
  const char* text;
  size_t size;
  TRITONSERVER_Error* error = TRITONSERVER_MessageSerializeToJson(message, &text, &size);
  json* document = error == NULL ? json_parse(text, size) : NULL;
  if (error == NULL && document == NULL) {
    error = error_new(TRITONSERVER_ERROR_INTERNAL, "the configuration of model '%s' could not be read as JSON", name);
  }
  error_log(TRITONSERVER_MessageDelete(message), "deleting the configuration message");

  config* it = NULL;
  if (error == NULL) {
    it = calloc(1, sizeof *it);
    if (it != NULL) it->model_name = strdup(name);
    error = it == NULL || it->model_name == NULL ? error_no_memory(sizeof *it) : fill(document, it);
  }
  json_free(document);
  if (error != NULL) {
    config_free(it);
    return error;
  }
  *read = it;
  return NULL;
}

void config_free(config* it) {
  if (it == NULL) return;
  for (size_t i = 0; i < it->input_count; i++) free(it->inputs[i]);
  free(it->inputs);
  free(it->model_name);
  free(it);
}

bool config_has_input(const config* it, const char* name) {
  for (size_t i = 0; i < it->input_count; i++) {
    if (strcmp(it->inputs[i], name) == 0) return true;
  }
  return false;
}
