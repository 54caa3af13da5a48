/* Patience: how to wait for what is likely to come soon. */
#ifndef TRITONCAPI_PATIENCE_H
#define TRITONCAPI_PATIENCE_H

#include <stdint.h>

static const int64_t TC_MOMENT_NS = 80000; /* to look before going to sleep */
enum { TC_LOOKS = 16 };                    /* between looks at the clock */

static inline void tc_pause(void) {
#if defined __x86_64__
  __builtin_ia32_pause();
#elif defined __aarch64__
  __asm__ volatile("yield");
#endif
}

#endif
