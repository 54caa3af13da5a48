/* Turns: threads with an answer go back to Python one after the other.
 *
 * Python's interpreter lock is slow where threads meet at it: who finds it held goes to sleep and is woken when it is let
 * go, and until then nobody has it. Between two requests a thread needs it for some microseconds only. So one that has
 * its answer waits here, awake, while another one is in Python, and then finds the lock free. Nothing depends on it: who
 * is in Python for longer than that, or never comes back, has lost its turn. */
#define _GNU_SOURCE
#include "turn.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#include "patience.h"
#include "triton.h"

static const int64_t TURN_NS = 30000;
enum { WAITERS = 16 }; /* more threads than that meet at Python's lock as ever */

static _Atomic int64_t since; /* when the turn began that goes on; 0 for none */
static atomic_int waiting;
static _Thread_local int64_t mine;

void tc_turn_begin(void) {
  int64_t began = tc_now(), now = began, other = 0;
  mine = 0;
  if (atomic_compare_exchange_strong(&since, &other, now)) {
    mine = now;
    return;
  }
  if (atomic_fetch_add_explicit(&waiting, 1, memory_order_relaxed) < WAITERS)
    for (; now - began < 2 * TURN_NS; now = tc_now()) {
      other = atomic_load_explicit(&since, memory_order_relaxed);
      if ((!other || now - other > TURN_NS) && atomic_compare_exchange_strong(&since, &other, now)) {
        mine = now;
        break;
      }
      for (int i = 0; i < TC_LOOKS && atomic_load_explicit(&since, memory_order_relaxed); i++) tc_pause();
      sched_yield();
    }
  atomic_fetch_sub_explicit(&waiting, 1, memory_order_relaxed);
}

void tc_turn_end(void) {
  int64_t begun = mine;
  mine = 0;
  if (begun) atomic_compare_exchange_strong(&since, &begun, 0);
}
