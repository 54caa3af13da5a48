/* Planted faults: what a model's `fault` parameter asks for, and the acts that need no tensor. */
#define _POSIX_C_SOURCE 200809L
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"

typedef enum { NO_VALUE, OPTIONAL_PERIOD, BYTE_COUNT, MEMORY, OPTIONAL_MEMORY, OPTIONAL_DATATYPE } value_rule;

static const struct {
  const char* name;
  value_rule rule;
} known[FAULT_COUNT] = {
    [FAULT_FAIL_MODEL_INIT] = {"fail_model_init", NO_VALUE},
    [FAULT_FAIL_INSTANCE_INIT] = {"fail_instance_init", NO_VALUE},
    [FAULT_FAIL_EXECUTE] = {"fail_execute", NO_VALUE},
    [FAULT_FAIL_REQUEST] = {"fail_request", OPTIONAL_PERIOD},
    [FAULT_WRONG_VALUES] = {"wrong_values", OPTIONAL_DATATYPE},
    [FAULT_ZERO_OUTPUT] = {"zero_output", NO_VALUE},
    [FAULT_WRONG_PREFERRED] = {"wrong_preferred", MEMORY},
    [FAULT_WRONG_REPORTED] = {"wrong_reported", MEMORY},
    [FAULT_WRONG_SHAPE] = {"wrong_shape", NO_VALUE},
    [FAULT_IGNORE_HOST_POLICY] = {"ignore_host_policy", NO_VALUE},
    [FAULT_WRONG_DEVICE] = {"wrong_device", OPTIONAL_MEMORY},
    [FAULT_DROP_CHUNK] = {"drop_chunk", NO_VALUE},
    [FAULT_DROP_OUTPUT] = {"drop_output", NO_VALUE},
    [FAULT_LEAK_HOST] = {"leak_host", BYTE_COUNT},
    [FAULT_LEAK_GPU] = {"leak_gpu", BYTE_COUNT},
    [FAULT_LEAK_HOST_LOAD] = {"leak_host_load", BYTE_COUNT},
    [FAULT_LEAK_GPU_LOAD] = {"leak_gpu_load", BYTE_COUNT},
    [FAULT_LEAK_FD] = {"leak_fd", NO_VALUE},
    [FAULT_LEAK_FD_LOAD] = {"leak_fd_load", NO_VALUE},
    [FAULT_NO_ANSWER] = {"no_answer", NO_VALUE},
    [FAULT_NEVER_RELEASE] = {"never_release", NO_VALUE},
    [FAULT_ANSWER_TWICE] = {"answer_twice", NO_VALUE},
    [FAULT_HANG] = {"hang", NO_VALUE},
    [FAULT_HANG_FINALIZE] = {"hang_finalize", NO_VALUE},
    [FAULT_CRASH] = {"crash", NO_VALUE},
    [FAULT_ABORT] = {"abort", NO_VALUE},
    [FAULT_CRASH_INIT] = {"crash_init", NO_VALUE},
    [FAULT_LOG_COPY_ERROR] = {"log_copy_error", NO_VALUE},
};

static const char* rule_text(value_rule rule) {
  switch (rule) {
    case OPTIONAL_PERIOD: return "[:k]";
    case BYTE_COUNT: return ":bytes";
    case MEMORY: return ":cpu|pinned|gpu";
    case OPTIONAL_MEMORY: return "[:cpu|pinned|gpu]";
    case OPTIONAL_DATATYPE: return "[:datatype]";
    default: return "";
  }
}

static TRITONSERVER_Error* unknown_name(const char* name) {
  char list[1024] = "";
  for (int i = 0; i < FAULT_COUNT; i++) {
    const size_t room = sizeof list - strlen(list) - 1;
    if (i > 0) strncat(list, ", ", room);
    strncat(list, known[i].name, sizeof list - strlen(list) - 1);
    strncat(list, rule_text(known[i].rule), sizeof list - strlen(list) - 1);
  }
  return error_new(TRITONSERVER_ERROR_INVALID_ARG, "unknown fault '%s'; the known ones are %s", name, list);
}

static bool read_positive(const char* text, uint64_t* value) {
  if (*text < '0' || *text > '9') return false;
  char* end;
  errno = 0;
  *value = strtoull(text, &end, 10);
  return errno == 0 && *end == '\0' && *value > 0;
}

static bool read_memory(const char* text, uint64_t* value) {
  if (strcmp(text, "cpu") == 0) *value = TRITONSERVER_MEMORY_CPU;
  else if (strcmp(text, "pinned") == 0) *value = TRITONSERVER_MEMORY_CPU_PINNED;
  else if (strcmp(text, "gpu") == 0) *value = TRITONSERVER_MEMORY_GPU;
  else return false;
  return true;
}

/* A datatype's name in small letters, as fault lists are written. */
static bool read_datatype(const char* text, uint64_t* value) {
  char name[16] = "";
  if (strlen(text) >= sizeof name) return false;
  for (size_t i = 0; text[i] != '\0'; i++) name[i] = text[i] >= 'a' && text[i] <= 'z' ? (char)(text[i] - 32) : text[i];
  *value = TRITONSERVER_StringToDataType(name);
  return *value != TRITONSERVER_TYPE_INVALID;
}

static TRITONSERVER_Error* parse_one(char* word, faults* parsed) {
  word += strspn(word, " \t");
  for (size_t n = strlen(word); n > 0 && strchr(" \t", word[n - 1]) != NULL; n--) word[n - 1] = '\0';
  char* value = strchr(word, ':');
  if (value != NULL) *value++ = '\0';
  int which = 0;
  while (which < FAULT_COUNT && strcmp(known[which].name, word) != 0) which++;
  if (which == FAULT_COUNT) return unknown_name(word);

  bool good = false;
  uint64_t number = 1;
  switch (known[which].rule) {
    case NO_VALUE: good = value == NULL; break;
    case OPTIONAL_PERIOD: good = value == NULL || read_positive(value, &number); break;
    case BYTE_COUNT: good = value != NULL && read_positive(value, &number); break;
    case MEMORY: good = value != NULL && read_memory(value, &number); break;
    case OPTIONAL_MEMORY: good = value == NULL || read_memory(value, &number); break;
    case OPTIONAL_DATATYPE: good = value == NULL || read_datatype(value, &number); break;
  }
  if (!good) {
    return error_new(TRITONSERVER_ERROR_INVALID_ARG, "malformed fault '%s%s%s'; it is written %s%s", word,
                     value == NULL ? "" : ":", value == NULL ? "" : value, word, rule_text(known[which].rule));
  }
  parsed->on[which] = true;
  parsed->value[which] = number;
  parsed->any[which] = value == NULL;
  return NULL;
}

TRITONSERVER_Error* faults_parse(const char* text, faults* parsed) {
  memset(parsed, 0, sizeof *parsed);
  if (*text == '\0') return NULL;
  char* copy = strdup(text);
  if (copy == NULL) return error_no_memory(strlen(text));
  TRITONSERVER_Error* error = NULL;
  /* Not strtok: an empty word ("a,,b") is a mistake to report, not to skip. */
  for (char* word = copy; word != NULL && error == NULL;) {
    char* comma = strchr(word, ',');
    if (comma != NULL) *comma = '\0';
    error = parse_one(word, parsed);
    word = comma == NULL ? NULL : comma + 1;
  }
  free(copy);
  return error;
}

TRITONSERVER_Error* fault_error(fault which) {
  return error_new(TRITONSERVER_ERROR_INTERNAL, "planted fault: %s", known[which].name);
}

void fault_crash(void) {
  /* Both volatile: a plain store that nothing reads is dropped by the optimiser, and nothing crashes. */
  volatile int* volatile nowhere = NULL;
  *nowhere = 1;
}

void fault_hang(void) {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t never = PTHREAD_COND_INITIALIZER;
  pthread_mutex_lock(&mutex);
  for (;;) pthread_cond_wait(&never, &mutex);
}

/* Written through volatile: the compiler may drop an allocation that nothing touches. */
TRITONSERVER_Error* fault_leak_host(uint64_t byte_size) {
  volatile unsigned char* lost = malloc(byte_size);
  if (lost == NULL) return error_no_memory(byte_size);
  for (uint64_t i = 0; i < byte_size; i += 1024) lost[i] = 1;
  return NULL;
}

TRITONSERVER_Error* fault_leak_descriptor(void) {
  if (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0) return NULL;
  return error_new(TRITONSERVER_ERROR_INTERNAL, "planted fault: leak_fd ran out of descriptors: %s", strerror(errno));
}
