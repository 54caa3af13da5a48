/* A model instance: where it runs, its host policy, and what it holds between executions. */
#define _POSIX_C_SOURCE 200809L
#include "instance.h"

#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "json.h"
#include "timing.h"

const gpu* instance_gpu(const instance* it) { return it->place.type == TRITONSERVER_MEMORY_GPU ? it->gpu : NULL; }

static bool leaks_on_gpu(const config* model) {
  return model->faults.on[FAULT_LEAK_GPU] || model->faults.on[FAULT_LEAK_GPU_LOAD];
}

/* The policy arrives as an object with one member: its name, and its settings as the value. */
static TRITONSERVER_Error* read_host_policy(instance* it) {
  TRITONSERVER_Message* message; /* the instance's own: not ours to delete */
  TRY(TRITONBACKEND_ModelInstanceHostPolicy(it->handle, &message));
  const char* text;
  size_t size;
  TRY(TRITONSERVER_MessageSerializeToJson(message, &text, &size));
  json* policy = json_parse(text, size);
  const bool good = policy != NULL && policy->kind == JSON_OBJECT && policy->child != NULL;
  it->host_policy = good ? strdup(policy->child->key) : NULL;
  json_free(policy);
  if (!good) {
    return error_new(TRITONSERVER_ERROR_INTERNAL, "the host policy of instance '%s' has no name: %.*s", it->name,
                     (int)size, text);
  }
  return it->host_policy == NULL ? error_no_memory(64) : NULL;
}

static TRITONSERVER_Error* read_identity(instance* it) {
  const char* name;
  TRITONSERVER_InstanceGroupKind kind;
  int32_t device;
  TRY(TRITONBACKEND_ModelInstanceName(it->handle, &name));
  it->name = strdup(name);
  if (it->name == NULL) return error_no_memory(strlen(name));
  TRY(TRITONBACKEND_ModelInstanceKind(it->handle, &kind));
  TRY(TRITONBACKEND_ModelInstanceDeviceId(it->handle, &device));
  TRY(TRITONBACKEND_ModelInstanceIsPassive(it->handle, &it->passive));
  it->place = PLACE_HOST;
  if (kind == TRITONSERVER_INSTANCEGROUPKIND_GPU) it->place = (place){TRITONSERVER_MEMORY_GPU, device};
  return read_host_policy(it);
}

static TRITONSERVER_Error* report_memory(const instance* it) {
  TRITONSERVER_BufferAttributes* usage;
  TRY(TRITONSERVER_BufferAttributesNew(&usage));
  TRITONSERVER_Error* error = TRITONSERVER_BufferAttributesSetMemoryType(usage, it->place.type);
  if (error == NULL) error = TRITONSERVER_BufferAttributesSetMemoryTypeId(usage, it->place.id);
  if (error == NULL) error = TRITONSERVER_BufferAttributesSetByteSize(usage, it->config->scratch_bytes);
  if (error == NULL) error = TRITONBACKEND_ModelInstanceReportMemoryUsage(it->handle, &usage, 1);
  error_log(TRITONSERVER_BufferAttributesDelete(usage), "deleting a memory report");
  return error;
}

static TRITONSERVER_Error* allocate(instance* it) {
  const config* model = it->config;
  const gpu* device = instance_gpu(it);
  if (device == NULL) {
    TRY(scratch_open(&it->host_scratch, NULL, model->scratch_bytes));
  } else {
    TRY(scratch_open(&it->host_scratch, NULL, 0));
    TRY(gpu_enter(device));
    TRITONSERVER_Error* error = scratch_open(&it->gpu_scratch, device, model->scratch_bytes);
    gpu_leave(device);
    TRY(error);
  }
  TRY(sequences_open(&it->sequences, model->sequence_idle_us));
  return model->scratch_bytes == 0 ? NULL : report_memory(it);
}

static TRITONSERVER_Error* plant(const instance* it) {
  const faults* planted = &it->config->faults;
  if (planted->on[FAULT_CRASH_INIT]) fault_crash();
  if (planted->on[FAULT_LEAK_HOST_LOAD]) TRY(fault_leak_host(planted->value[FAULT_LEAK_HOST_LOAD]));
  if (planted->on[FAULT_LEAK_GPU_LOAD]) TRY(instance_leak_gpu(it, planted->value[FAULT_LEAK_GPU_LOAD]));
  if (planted->on[FAULT_LEAK_FD_LOAD]) TRY(fault_leak_descriptor());
  return planted->on[FAULT_FAIL_INSTANCE_INIT] ? fault_error(FAULT_FAIL_INSTANCE_INIT) : NULL;
}

static TRITONSERVER_Error* start(instance* it) {
  TRY(read_identity(it));
  if (it->passive) return NULL;
  const bool computes_there = it->place.type == TRITONSERVER_MEMORY_GPU;
  if (computes_there || leaks_on_gpu(it->config)) TRY(gpu_open(computes_there ? it->place.id : 0, &it->gpu));
  TRY(allocate(it));
  (void)sleep_ms(it->config->instance_delay_ms, NULL, NULL);
  return plant(it);
}

TRITONSERVER_Error* instance_open(TRITONBACKEND_ModelInstance* handle, const config* model, instance** opened) {
  instance* it = calloc(1, sizeof *it);
  if (it == NULL) return error_no_memory(sizeof *it);
  it->handle = handle;
  it->config = model;
  TRITONSERVER_Error* error = start(it);
  if (error != NULL) {
    instance_close(it);
    return error;
  }
  *opened = it;
  return NULL;
}

void instance_close(instance* it) {
  if (it == NULL) return;
  const gpu* device = instance_gpu(it);
  if (device != NULL) {
    TRITONSERVER_Error* error = gpu_enter(device);
    if (error == NULL) {
      scratch_close(&it->gpu_scratch);
      gpu_leave(device);
    }
    error_log(error, "freeing the GPU scratch");
  }
  scratch_close(&it->host_scratch);
  sequences_close(&it->sequences);
  gpu_close(it->gpu, leaks_on_gpu(it->config));
  free(it->host_policy);
  free(it->name);
  free(it);
}

TRITONSERVER_Error* instance_leak_gpu(const instance* it, uint64_t byte_size) {
  TRY(gpu_enter(it->gpu));
  cu_address lost;
  TRITONSERVER_Error* error = gpu_allocate(it->gpu, byte_size, &lost);
  if (error == NULL) error = gpu_zero(it->gpu, (void*)(uintptr_t)lost, it->gpu->ordinal, byte_size);
  if (error == NULL) error = gpu_wait(it->gpu);
  gpu_leave(it->gpu);
  return error;
}
