/* Time: the clock that Triton's statistics use, and a sleep that can be interrupted. */
#define _POSIX_C_SOURCE 200809L
#include "timing.h"

#include <errno.h>
#include <time.h>

enum { NS_PER_MS = 1000000, NS_PER_S = 1000000000, STEP_MS = 5 };

uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

bool sleep_ms(uint64_t milliseconds, bool (*stop)(void* argument), void* argument) {
  const uint64_t end = now_ns() + milliseconds * NS_PER_MS;
  for (;;) {
    if (stop != NULL && stop(argument)) return false;
    const uint64_t now = now_ns();
    if (now >= end) return true;
    uint64_t until = end;
    if (stop != NULL && end - now > (uint64_t)STEP_MS * NS_PER_MS) until = now + (uint64_t)STEP_MS * NS_PER_MS;
    /* An absolute target, so that signals do not stretch the delay. */
    const struct timespec target = {(time_t)(until / NS_PER_S), (long)(until % NS_PER_S)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &target, NULL) == EINTR) {
    }
  }
}
