/* Notices: which calls something happened to, for those who do not wait for one call in person. */
#define _GNU_SOURCE
#include "notices.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "triton.h"

void tc_lock_init(pthread_mutex_t *lock) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
  pthread_mutex_init(lock, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

void tc_condition_init(pthread_cond_t *condition) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

bool tc_wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, int64_t deadline) {
  if (deadline < 0) {
    pthread_cond_wait(condition, lock);
    return true;
  }
  struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};
  return pthread_cond_timedwait(condition, lock, &until) == 0;
}

int64_t tc_deadline_after(int64_t timeout_ns) { return timeout_ns < 0 ? -1 : tc_now() + timeout_ns; }

/* A queue that grows; whoever uses it locks. */
struct keys {
  uint64_t *keys;
  size_t head, tail, capacity;
};

static void push(struct keys *queue, uint64_t key) {
  if (queue->head == queue->tail) queue->head = queue->tail = 0;
  if (queue->tail == queue->capacity && queue->head > queue->capacity / 2) {
    memmove(queue->keys, queue->keys + queue->head, (queue->tail - queue->head) * sizeof *queue->keys);
    queue->tail -= queue->head;
    queue->head = 0;
  }
  if (queue->tail == queue->capacity) {
    size_t capacity = queue->capacity ? 2 * queue->capacity : 256;
    uint64_t *grown = realloc(queue->keys, capacity * sizeof *grown);
    if (!grown) abort(); /* losing a completion would hang its waiter for ever */
    queue->keys = grown;
    queue->capacity = capacity;
  }
  queue->keys[queue->tail++] = key;
}

static size_t pop(struct keys *queue, uint64_t *keys, size_t limit) {
  size_t count = queue->tail - queue->head;
  if (count > limit) count = limit;
  if (count) memcpy(keys, queue->keys + queue->head, count * sizeof *keys);
  queue->head += count;
  return count;
}

/* Drained by the one dispatcher thread. */
static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool ready;
  struct keys queue;
} notices = {.lock = PTHREAD_MUTEX_INITIALIZER};

void tc_notice_post(uint64_t key) {
  pthread_mutex_lock(&notices.lock);
  push(&notices.queue, key);
  if (notices.ready) pthread_cond_signal(&notices.changed);
  pthread_mutex_unlock(&notices.lock);
}

/* Copies up to `limit` keys on which something happened; waits for the first. A key may come more than once.
 * Returns how many. */
size_t tc_notices_take(uint64_t *keys, size_t limit, int64_t timeout_ns) {
  int64_t deadline = tc_deadline_after(timeout_ns);
  pthread_mutex_lock(&notices.lock);
  if (!notices.ready) {
    tc_condition_init(&notices.changed);
    notices.ready = true;
  }
  while (notices.queue.head == notices.queue.tail && timeout_ns != 0)
    if (!tc_wait_until(&notices.changed, &notices.lock, deadline)) break;
  size_t count = pop(&notices.queue, keys, limit);
  pthread_mutex_unlock(&notices.lock);
  return count;
}

struct tc_inbox {
  pthread_mutex_t lock;
  int references;
  int descriptor; /* an eventfd that can be read while keys wait; -1 when the owner has gone */
  struct keys queue;
};

/* NULL without memory or descriptors. `*descriptor` is for the event loop to watch, and the inbox's to close. */
struct tc_inbox *tc_inbox_new(int *descriptor) {
  struct tc_inbox *inbox = calloc(1, sizeof *inbox);
  if (!inbox) return NULL;
  inbox->descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (inbox->descriptor < 0) {
    free(inbox);
    return NULL;
  }
  tc_lock_init(&inbox->lock);
  inbox->references = 1;
  *descriptor = inbox->descriptor;
  return inbox;
}

void tc_inbox_hold(struct tc_inbox *inbox) {
  pthread_mutex_lock(&inbox->lock);
  inbox->references++;
  pthread_mutex_unlock(&inbox->lock);
}

void tc_inbox_drop(struct tc_inbox *inbox) {
  pthread_mutex_lock(&inbox->lock);
  bool last = --inbox->references == 0;
  pthread_mutex_unlock(&inbox->lock);
  if (!last) return;
  pthread_mutex_destroy(&inbox->lock);
  free(inbox->queue.keys);
  free(inbox);
}

/* The owner goes: what is posted from now on is for nobody. */
void tc_inbox_close(struct tc_inbox *inbox) {
  pthread_mutex_lock(&inbox->lock);
  close(inbox->descriptor);
  inbox->descriptor = -1;
  pthread_mutex_unlock(&inbox->lock);
  tc_inbox_drop(inbox);
}

void tc_inbox_post(struct tc_inbox *inbox, uint64_t key) {
  pthread_mutex_lock(&inbox->lock);
  if (inbox->descriptor >= 0) {
    bool empty = inbox->queue.head == inbox->queue.tail;
    push(&inbox->queue, key);
    if (empty) eventfd_write(inbox->descriptor, 1); /* cannot fail: it is read before the queue is found empty again */
  }
  pthread_mutex_unlock(&inbox->lock);
}

/* Takes up to `limit` keys; the descriptor stays readable while some are left. */
size_t tc_inbox_take(struct tc_inbox *inbox, uint64_t *keys, size_t limit) {
  pthread_mutex_lock(&inbox->lock);
  size_t count = pop(&inbox->queue, keys, limit);
  eventfd_t unused;
  if (inbox->queue.head == inbox->queue.tail && inbox->descriptor >= 0) eventfd_read(inbox->descriptor, &unused);
  pthread_mutex_unlock(&inbox->lock);
  return count;
}
