/* Futexes: words that threads sleep on until another one wakes them. */
#ifndef TRITONCAPI_FUTEX_H
#define TRITONCAPI_FUTEX_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "triton.h"

/* Sleeps while the word is `value`, or for no reason not. False when the deadline (ns, -1 for none) is over. */
static inline bool tc_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t deadline) {
  int64_t left = deadline < 0 ? -1 : deadline - tc_now();
  if (deadline >= 0 && left <= 0) return false;
  struct timespec rest = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, deadline < 0 ? NULL : &rest, NULL, 0);
  return true;
}

static inline void tc_futex_wake(_Atomic uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#endif
