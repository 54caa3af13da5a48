/* Time: the clock that Triton's statistics use, and a sleep that can be interrupted. */
#ifndef TRITONCAPI_TEST_TIMING_H
#define TRITONCAPI_TEST_TIMING_H

#include <stdbool.h>
#include <stdint.h>

/* Nanoseconds of CLOCK_MONOTONIC, which is the clock that the core compares our times with. */
uint64_t now_ns(void);

/* Sleep `milliseconds`, asking `stop` (may be NULL) at least every 10 ms; false when it cut the sleep short. */
bool sleep_ms(uint64_t milliseconds, bool (*stop)(void* argument), void* argument);

#endif
