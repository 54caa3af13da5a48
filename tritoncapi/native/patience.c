/* Patience: how to wait for an answer that is likely to come soon. */
#define _GNU_SOURCE
#include "patience.h"

#include "calls.h"
#include "cores.h"

static atomic_int waiting; /* threads, for a whole answer */

struct patience {
  int64_t since_ns, usual_ns;
};

/* A thread that sleeps is woken late, and costs the one that wakes it a system call: as much as a small model's whole
 * answer takes. So who waits for one that has been quick so far looks again and again for a moment, unless as many
 * others wait as there are cores to spare. */
static void look_for_a_moment(struct tc_call *call, struct patience *patience) {
  int others = 2 * atomic_load_explicit(&waiting, memory_order_relaxed);
  if (patience->usual_ns > TC_MOMENT_NS || others > tc_cores()) return;
  for (int64_t end = patience->since_ns + TC_MOMENT_NS; tc_now() < end;)
    for (int i = 0; i < TC_LOOKS; i++) {
      if (atomic_load_explicit(&call->over, memory_order_acquire)) return;
      tc_pause();
    }
}

/* Waits for the whole answer to one call, as tc_call_take_answer. */
bool tc_call_await_answer(struct tc_call *call, uint64_t key, int64_t timeout_ns, struct tc_answer *answer) {
  static _Thread_local struct patience patience;
  patience.since_ns = tc_now();
  atomic_fetch_add_explicit(&waiting, 1, memory_order_relaxed);
  look_for_a_moment(call, &patience);
  bool whole = tc_call_take_answer(call, key, timeout_ns, answer);
  atomic_fetch_sub_explicit(&waiting, 1, memory_order_relaxed);
  tc_note_usual(&patience.usual_ns, tc_now() - patience.since_ns, TC_MOMENT_NS);
  return whole;
}
