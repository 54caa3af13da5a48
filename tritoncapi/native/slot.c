/* Slots: where the callbacks of one prepared request end, on Triton's threads, without a lock. And the allocator that
 * traffic uses by itself. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "traffic.h"

/* Slots never go back to the heap: a backend that answers twice calls with the address of one long after. */
static struct {
  pthread_mutex_t lock;
  struct tc_slot *idle;
  _Atomic uint64_t strays;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* NULL without memory. */
struct tc_slot *tc_slot_new(void) {
  pthread_mutex_lock(&pool.lock);
  struct tc_slot *slot = pool.idle;
  if (slot) pool.idle = slot->next;
  pthread_mutex_unlock(&pool.lock);
  if (!slot) slot = aligned_alloc(64, sizeof *slot);
  if (slot) memset(slot, 0, sizeof *slot);
  return slot;
}

void tc_slot_give_back(struct tc_slot *slot) {
  atomic_store(&slot->state, 0);
  pthread_mutex_lock(&pool.lock);
  slot->next = pool.idle;
  pool.idle = slot;
  pthread_mutex_unlock(&pool.lock);
}

/* Callbacks that came for a slot whose request was not out. */
uint64_t tc_slot_strays(void) { return tc_peek(&pool.strays); }

/* A code that this version does not know is UNKNOWN. */
int tc_error_code(TRITONSERVER_Error *error) {
  int code = tc_triton.ErrorCode(error);
  return code < 0 || code >= TC_CODES ? 0 : code;
}

static void drop(TRITONSERVER_InferenceResponse *response) {
  TRITONSERVER_Error *error = tc_triton.InferenceResponseDelete(response);
  if (error) tc_triton.ErrorDelete(error);
}

/* Notes that one of the two parts came; whoever brings the second hands the slot to its worker. */
static void part_came(struct tc_slot *slot, unsigned part) {
  struct tc_worker *worker = slot->worker;
  const unsigned both = TC_SLOT_FINAL | TC_SLOT_RELEASED;
  unsigned before = atomic_fetch_or(&slot->state, part);
  if (before & part || ((before | part) & both) != both) return; /* from here on the slot may be gone, if not both */
  /* Counted first: once the slot is pushed, the worker may end, and its memory waits for this count. */
  atomic_fetch_add_explicit(&worker->inside, 1, memory_order_acquire);
  struct tc_slot *head = atomic_load_explicit(&worker->done, memory_order_relaxed);
  do slot->next = head;
  while (!atomic_compare_exchange_weak(&worker->done, &head, slot));
  if (atomic_load(&worker->asleep) == TC_ASLEEP) tc_worker_wake(worker, TC_ASLEEP);
  atomic_fetch_sub_explicit(&worker->inside, 1, memory_order_release);
}

static bool is_stray(const struct tc_slot *slot, unsigned part) {
  unsigned state = atomic_load_explicit(&slot->state, memory_order_acquire);
  if (state & TC_SLOT_FLYING && !(state & part)) return false;
  atomic_fetch_add_explicit(&pool.strays, 1, memory_order_relaxed);
  return true;
}

void tc_slot_release(TRITONSERVER_InferenceRequest *request, const uint32_t flags, void *userp) {
  (void)request;
  struct tc_slot *slot = userp;
  if (!(flags & TC_RELEASE_ALL)) return; /* still Triton's: it will be executed again */
  if (is_stray(slot, TC_SLOT_RELEASED)) return;
  slot->release_ns = tc_now();
  slot->thread = tc_thread();
  part_came(slot, TC_SLOT_RELEASED);
}

void tc_slot_response(TRITONSERVER_InferenceResponse *response, const uint32_t flags, void *userp) {
  struct tc_slot *slot = userp;
  if (is_stray(slot, TC_SLOT_FINAL)) {
    if (response) drop(response);
    return;
  }
  int64_t now = tc_now();
  if (response) {
    if (!slot->responses++) slot->first_ns = now;
    TRITONSERVER_Error *error = tc_triton.InferenceResponseError(response);
    if (error && slot->code < 0) {
      slot->code = tc_error_code(error);
      tc_traffic_note_message(slot->worker->traffic, slot->code, tc_triton.ErrorMessage(error));
    }
    if (error) tc_response_error_done(response, error);
    if (slot->keep && !slot->kept && !error)
      slot->kept = response;
    else
      drop(response); /* here, where its buffers were allocated: the heap likes that best */
  }
  if (!(flags & TC_RESPONSE_FINAL)) return;
  slot->final_ns = now;
  part_came(slot, TC_SLOT_FINAL);
}

/* Sets both callbacks. They stay set, but a request that was cancelled stays cancelled until this is done anew. */
TRITONSERVER_Error *tc_slot_arm(struct tc_slot *slot, const struct tc_target_options *target) {
  slot->cancelled = false;
  TRITONSERVER_Error *error = tc_triton.InferenceRequestSetReleaseCallback(slot->request, tc_slot_release, slot);
  if (error) return error;
  return tc_triton.InferenceRequestSetResponseCallback(
      slot->request, target->allocator, target->allocator_userp, tc_slot_response, slot);
}

/* An allocator without a state: all on the CPU. A response that outlives the traffic needs nothing of it. */
TRITONSERVER_Error *tc_plain_alloc(
    TRITONSERVER_ResponseAllocator *handle, const char *tensor, size_t byte_size, int preferred_type,
    int64_t preferred_id, void *userp, void **buffer, void **buffer_userp, int *actual_type, int64_t *actual_id) {
  (void)handle, (void)tensor, (void)preferred_type, (void)preferred_id, (void)userp;
  *buffer_userp = NULL;
  *actual_type = TC_MEMORY_CPU;
  *actual_id = 0;
  *buffer = byte_size ? malloc(byte_size) : NULL; /* Triton releases none of zero bytes */
  return byte_size && !*buffer ? tc_triton.ErrorNew(TC_ERROR_UNAVAILABLE, "out of host memory") : NULL;
}

TRITONSERVER_Error *tc_plain_release(
    TRITONSERVER_ResponseAllocator *handle, void *buffer, void *buffer_userp, size_t byte_size, int memory_type,
    int64_t memory_type_id) {
  (void)handle, (void)buffer_userp, (void)byte_size, (void)memory_type, (void)memory_type_id;
  free(buffer);
  return NULL;
}
