/* The reference of all ratios: what a fair, minimal client in C gets out of the same Triton and the same model.
 *
 *   c_loop LIBTRITONSERVER REPOSITORY BACKENDS MODEL ELEMENTS [GPU]
 *
 * The model takes INPUT0 and INPUT1, INT32 of shape [1, ELEMENTS]; with GPU they and the outputs are there. Each line on
 * standard input is a run:
 *
 *   THREADS CONCURRENCY SECONDS TOGETHER
 *
 * THREADS threads keep CONCURRENCY prepared requests each in flight; with CONCURRENCY 1 that is synchronous inference.
 * With TOGETHER 1 a thread submits all of them, waits for the last, and submits all again.
 * The answer on standard output: requests, seconds, mean latency (submitted to final response and release) in ns. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct TRITONSERVER_Error error_t;
typedef struct TRITONSERVER_InferenceRequest request_t;
typedef struct TRITONSERVER_InferenceResponse response_t;
typedef struct TRITONSERVER_ResponseAllocator allocator_t;
typedef struct TRITONSERVER_Server server_t;
typedef struct TRITONSERVER_ServerOptions options_t;

enum { INT32 = 8, CPU = 0, GPU = 2, RELEASE_ALL = 1, FINAL = 1, EXPLICIT = 2 };

static int64_t elements;
static int gpu = -1;

static void *library;

/* TRITON(result, Name, parameter types)(arguments) */
#define TRITON(result, name, ...) ((result(*)(__VA_ARGS__))symbol("TRITONSERVER_" #name))

static void *symbol(const char *name) {
  void *found = dlsym(library, name);
  if (found) return found;
  fprintf(stderr, "c_loop: the library has no %s\n", name);
  exit(1);
}

static void check(error_t *error, const char *what) {
  if (!error) return;
  fprintf(stderr, "c_loop: %s: %s\n", what, TRITON(const char *, ErrorMessage, error_t *)(error));
  exit(1);
}

/* What the loop calls is looked up once. */
static error_t *(*infer_async)(server_t *, request_t *, void *);
static error_t *(*response_error)(response_t *);
static error_t *(*response_delete)(response_t *);

struct slot {
  struct worker *worker;
  request_t *request;
  struct slot *next;
  int64_t submit_ns, end_ns;
  atomic_int missing; /* of the final response and the release */
};

struct worker {
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  struct slot *done; /* guarded by the lock */
  struct slot *slots;
  server_t *server;
  int concurrency;
  bool together;
  atomic_int missing; /* slots, together */
  int64_t until_ns;
  uint64_t requests, latency_ns;
};

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void part_came(struct slot *slot) {
  if (atomic_fetch_sub(&slot->missing, 1) != 1) return;
  slot->end_ns = now();
  struct worker *worker = slot->worker;
  if (worker->together && atomic_fetch_sub(&worker->missing, 1) != 1) return;
  pthread_mutex_lock(&worker->lock);
  slot->next = worker->done;
  worker->done = slot;
  pthread_cond_signal(&worker->changed);
  pthread_mutex_unlock(&worker->lock);
}

static void on_release(request_t *request, const uint32_t flags, void *userp) {
  (void)request;
  if (flags & RELEASE_ALL) part_came(userp);
}

static void on_response(response_t *response, const uint32_t flags, void *userp) {
  if (response) {
    check(response_error(response), "the response");
    check(response_delete(response), "deleting the response");
  }
  if (flags & FINAL) part_came(userp);
}

/* Buffers on the GPU: made once, kept in a list. */

static int (*cu_alloc)(unsigned long long *, size_t);
static void *cu_context;

static void cuda(int result, const char *what) {
  if (!result) return;
  fprintf(stderr, "c_loop: %s: CUDA error %d\n", what, result);
  exit(1);
}

static void *cuda_symbol(const char *name) {
  static void *driver;
  if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW);
  void *found = driver ? dlsym(driver, name) : NULL;
  if (!found) cuda(-1, name);
  return found;
}

static void use_gpu(void) {
  int device;
  cuda(((int (*)(unsigned))cuda_symbol("cuInit"))(0), "cuInit");
  cuda(((int (*)(int *, int))cuda_symbol("cuDeviceGet"))(&device, gpu), "cuDeviceGet");
  cuda(((int (*)(void **, int))cuda_symbol("cuDevicePrimaryCtxRetain"))(&cu_context, device), "the context");
  cu_alloc = (int (*)(unsigned long long *, size_t))cuda_symbol("cuMemAlloc_v2");
}

static void *gpu_buffer(size_t size) {
  unsigned long long pointer;
  cuda(((int (*)(void *))cuda_symbol("cuCtxSetCurrent"))(cu_context), "cuCtxSetCurrent");
  cuda(cu_alloc(&pointer, size), "cuMemAlloc");
  return (void *)(uintptr_t)pointer;
}

static struct {
  pthread_mutex_t lock;
  void *buffers[4096];
  int count;
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *take_kept(size_t size) {
  pthread_mutex_lock(&kept.lock);
  void *found = kept.count ? kept.buffers[--kept.count] : NULL;
  pthread_mutex_unlock(&kept.lock);
  return found ? found : gpu_buffer(size);
}

static void keep(void *buffer) {
  pthread_mutex_lock(&kept.lock);
  if (kept.count < 4096) kept.buffers[kept.count++] = buffer;
  pthread_mutex_unlock(&kept.lock);
}

static error_t *allocate(
    allocator_t *allocator, const char *tensor, size_t size, int preferred, int64_t preferred_id, void *userp,
    void **buffer, void **buffer_userp, int *actual, int64_t *actual_id) {
  (void)allocator, (void)tensor, (void)preferred, (void)preferred_id, (void)userp;
  *buffer = gpu < 0 ? malloc(size) : take_kept(size);
  *buffer_userp = NULL;
  *actual = gpu < 0 ? CPU : GPU;
  *actual_id = gpu < 0 ? 0 : gpu;
  return NULL;
}

static error_t *give_back(
    allocator_t *allocator, void *buffer, void *buffer_userp, size_t size, int type, int64_t type_id) {
  (void)allocator, (void)buffer_userp, (void)size, (void)type, (void)type_id;
  if (gpu < 0)
    free(buffer);
  else
    keep(buffer);
  return NULL;
}

static void submit(struct slot *slot) {
  atomic_store(&slot->missing, 2);
  slot->submit_ns = now();
  check(infer_async(slot->worker->server, slot->request, NULL), "ServerInferAsync");
}

static struct slot *wait_for_slots(struct worker *worker) {
  pthread_mutex_lock(&worker->lock);
  while (!worker->done) pthread_cond_wait(&worker->changed, &worker->lock);
  struct slot *slot = worker->done;
  worker->done = NULL;
  pthread_mutex_unlock(&worker->lock);
  return slot;
}

static void *work_together(void *argument) {
  struct worker *worker = argument;
  int count = worker->concurrency;
  while (now() < worker->until_ns) {
    atomic_store(&worker->missing, count);
    for (int i = 0; i < count; i++) submit(&worker->slots[i]);
    wait_for_slots(worker); /* the last one */
    for (int i = 0; i < count; i++)
      worker->latency_ns += (uint64_t)(worker->slots[i].end_ns - worker->slots[i].submit_ns);
    worker->requests += (uint64_t)count;
  }
  return NULL;
}

static void *work(void *argument) {
  struct worker *worker = argument;
  int flying = worker->concurrency;
  for (int i = 0; i < flying; i++) submit(&worker->slots[i]);
  while (flying) {
    struct slot *slot = wait_for_slots(worker);
    bool over = now() >= worker->until_ns;
    for (struct slot *next; slot; slot = next) {
      next = slot->next;
      worker->requests++;
      worker->latency_ns += (uint64_t)(slot->end_ns - slot->submit_ns);
      if (over)
        flying--;
      else
        submit(slot);
    }
  }
  return NULL;
}

static server_t *start_server(char **arguments) {
  options_t *options;
  check(TRITON(error_t *, ServerOptionsNew, options_t **)(&options), "options");
#define SET(name, type, value) \
  check(TRITON(error_t *, ServerOptionsSet##name, options_t *, type)(options, value), #name)
  SET(ModelRepositoryPath, const char *, arguments[2]);
  SET(BackendDirectory, const char *, arguments[3]);
  SET(ModelControlMode, int, EXPLICIT);
  SET(ModelLoadRetryCount, unsigned, 0);
  SET(LogInfo, bool, false);
  SET(LogWarn, bool, false);
  SET(LogError, bool, false);
  SET(GpuMetrics, bool, false);
  SET(CpuMetrics, bool, false);
#undef SET
  server_t *server;
  check(TRITON(error_t *, ServerNew, server_t **, options_t *)(&server, options), "the server");
  check(TRITON(error_t *, ServerOptionsDelete, options_t *)(options), "options");
  check(TRITON(error_t *, ServerLoadModel, server_t *, const char *)(server, arguments[4]), "the model");
  return server;
}

static request_t *prepare(server_t *server, allocator_t *allocator, const char *model, struct slot *slot) {
  static void *inputs[2]; /* the same for all requests */
  size_t size = (size_t)elements * sizeof(int32_t);
  for (int i = 0; i < 2; i++)
    if (!inputs[i]) inputs[i] = gpu < 0 ? calloc(1, size) : gpu_buffer(size);
  request_t *request;
  check(TRITON(error_t *, InferenceRequestNew, request_t **, server_t *, const char *, int64_t)(
            &request, server, model, -1),
        "the request");
  const int64_t shape[] = {1, elements};
  for (int i = 0; i < 2; i++) {
    const char *name = i ? "INPUT1" : "INPUT0";
    check(TRITON(error_t *, InferenceRequestAddInput, request_t *, const char *, int, const int64_t *, uint64_t)(
              request, name, INT32, shape, 2),
          name);
    check(TRITON(error_t *, InferenceRequestAppendInputData, request_t *, const char *, const void *, size_t, int,
                 int64_t)(request, name, inputs[i], size, gpu < 0 ? CPU : GPU, gpu < 0 ? 0 : gpu),
          name);
  }
  check(TRITON(error_t *, InferenceRequestSetReleaseCallback, request_t *,
               void (*)(request_t *, const uint32_t, void *), void *)(request, on_release, slot),
        "the release callback");
  check(TRITON(error_t *, InferenceRequestSetResponseCallback, request_t *, allocator_t *, void *,
               void (*)(response_t *, const uint32_t, void *), void *)(request, allocator, NULL, on_response, slot),
        "the response callback");
  return request;
}

static void run(
    server_t *server, allocator_t *allocator, const char *model, int threads, int each, double seconds,
    bool together) {
  struct worker *workers = calloc((size_t)threads, sizeof *workers);
  if (!workers) abort();
  for (int i = 0; i < threads; i++) {
    struct worker *worker = &workers[i];
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->changed, NULL);
    worker->server = server;
    worker->concurrency = each;
    worker->together = together;
    worker->slots = calloc((size_t)each, sizeof *worker->slots);
    if (!worker->slots) abort();
    for (int j = 0; j < each; j++) {
      worker->slots[j].worker = worker;
      worker->slots[j].request = prepare(server, allocator, model, &worker->slots[j]);
    }
  }
  int64_t began = now();
  for (int i = 0; i < threads; i++) {
    workers[i].until_ns = began + (int64_t)(seconds * 1e9);
    if (pthread_create(&workers[i].thread, NULL, together ? work_together : work, &workers[i])) abort();
  }
  uint64_t requests = 0, latency_ns = 0;
  for (int i = 0; i < threads; i++) {
    pthread_join(workers[i].thread, NULL);
    requests += workers[i].requests;
    latency_ns += workers[i].latency_ns;
  }
  double took = (double)(now() - began) / 1e9;
  for (int i = 0; i < threads; i++) {
    for (int j = 0; j < each; j++)
      check(TRITON(error_t *, InferenceRequestDelete, request_t *)(workers[i].slots[j].request), "deleting a request");
    free(workers[i].slots);
  }
  free(workers);
  printf("%llu %.9f %.1f\n", (unsigned long long)requests, took, (double)latency_ns / (double)requests);
  fflush(stdout);
}

int main(int count, char **arguments) {
  if (count != 6 && count != 7) {
    fprintf(stderr, "usage: c_loop LIBTRITONSERVER REPOSITORY BACKENDS MODEL ELEMENTS [GPU]\n");
    return 2;
  }
  elements = atoll(arguments[5]);
  if (count == 7) gpu = atoi(arguments[6]);
  if (gpu >= 0) use_gpu();
  library = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL); /* global: a backend finds Triton's symbols only so */
  if (!library) {
    fprintf(stderr, "c_loop: %s\n", dlerror());
    return 1;
  }
  server_t *server = start_server(arguments);
  infer_async = TRITON(error_t *, ServerInferAsync, server_t *, request_t *, void *);
  response_error = TRITON(error_t *, InferenceResponseError, response_t *);
  response_delete = TRITON(error_t *, InferenceResponseDelete, response_t *);
  allocator_t *allocator;
  check(TRITON(error_t *, ResponseAllocatorNew, allocator_t **, void *, void *, void *)(
            &allocator, (void *)allocate, (void *)give_back, NULL),
        "the allocator");
  int threads, each, together;
  double seconds;
  while (scanf("%d %d %lf %d", &threads, &each, &seconds, &together) == 4)
    run(server, allocator, arguments[4], threads, each, seconds, together);
  check(TRITON(error_t *, ServerStop, server_t *)(server), "stopping");
  check(TRITON(error_t *, ServerDelete, server_t *)(server), "deleting the server");
  check(TRITON(error_t *, ResponseAllocatorDelete, allocator_t *)(allocator), "deleting the allocator");
  return 0;
}
