/* Patience: how to wait for what is likely to come soon. */
#ifndef TRITONCAPI_PATIENCE_H
#define TRITONCAPI_PATIENCE_H

#include <stdint.h>

static const int64_t TC_MOMENT_NS = 80000; /* to look before going to sleep */
enum { TC_LOOKS = 16 };                    /* between looks at the clock */

/* What waiting takes as a rule, once more of it took so long: one that took much longer than a quick one counts as a few. */
static inline void tc_note_usual(int64_t *usual_ns, int64_t took_ns, int64_t quick_ns) {
  *usual_ns += ((took_ns < 4 * quick_ns ? took_ns : 4 * quick_ns) - *usual_ns) / 4;
}

static inline void tc_pause(void) {
#if defined __x86_64__
  __builtin_ia32_pause();
#elif defined __aarch64__
  __asm__ volatile("yield");
#endif
}

#endif
