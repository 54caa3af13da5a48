/* Groups: calls that are waited for together, by one thread, which is woken for all of them and not for each.
 *
 * One that sleeps is woken late. Where there are cores to spare it is woken when few are left, and looks for the last
 * ones itself. */
#define _GNU_SOURCE
#include "group.h"

#include "futex.h"
#include "patience.h"

enum { MANY_LEFT, FEW_LEFT, ASLEEP, OVER }; /* who waits: sleeps until few are left; looks; sleeps until the end; - */
enum { FEW = 8, CORES_EACH = 8 };

static atomic_int lookers;

void tc_group_open(struct tc_group *group, size_t count) {
  uint32_t few = count / 2 < FEW ? (uint32_t)(count / 2) : FEW;
  /* A core that looks is one less for the models: they have more than one thread for so many requests. */
  bool spare = few && CORES_EACH * (atomic_fetch_add_explicit(&lookers, 1, memory_order_relaxed) + 1) <= tc_cores();
  if (few && !spare) atomic_fetch_sub_explicit(&lookers, 1, memory_order_relaxed);
  *group = (struct tc_group){.left = 1, .state = MANY_LEFT, .few = spare ? few : 0};
}

void tc_group_close(struct tc_group *group) {
  if (group->few) atomic_fetch_sub_explicit(&lookers, 1, memory_order_relaxed);
}

/* Calls that are to be prepared with it. */
void tc_group_add(struct tc_group *group, size_t count) { atomic_fetch_add(&group->left, (uint32_t)count); }

/* Some of those never were. */
void tc_group_remove(struct tc_group *group, size_t count) { atomic_fetch_sub(&group->left, (uint32_t)count); }

/* Returns the futex to wake, or NULL; waking it when the group has just gone harms nobody. Who leaves does so last of all,
 * but for the last one, which the group waits for: so one that finds few left says so before. Of two at the same time
 * none may find that; who waits is then woken at the end. */
_Atomic uint32_t *tc_group_leave(struct tc_group *group) {
  _Atomic uint32_t *state = &group->state;
  uint32_t few = group->few, many = MANY_LEFT;
  bool tell = few && atomic_load_explicit(&group->left, memory_order_relaxed) == few + 1 &&
              atomic_compare_exchange_strong(state, &many, FEW_LEFT);
  bool looks = atomic_fetch_sub(&group->left, 1) == 1 ? atomic_exchange(state, OVER) == FEW_LEFT : true;
  return tell || !looks ? state : NULL;
}

/* Waits until all are done; false when the time is over. */
bool tc_group_wait(struct tc_group *group, int64_t deadline) {
  uint32_t left = atomic_fetch_sub(&group->left, 1) - 1;
  if (!left) return true;
  /* It may have been so for a moment before, while the others were not submitted. */
  uint32_t state = left <= group->few ? MANY_LEFT : FEW_LEFT, now = left <= group->few ? FEW_LEFT : MANY_LEFT;
  atomic_compare_exchange_strong(&group->state, &state, now);
  while ((state = atomic_load_explicit(&group->state, memory_order_acquire)) == MANY_LEFT)
    if (!tc_futex_wait(&group->state, MANY_LEFT, deadline)) return false;
  if (state == FEW_LEFT) {
    for (int64_t end = tc_now() + TC_MOMENT_NS; state == FEW_LEFT && tc_now() < end;)
      for (int i = 0; state == FEW_LEFT && i < TC_LOOKS; i++) {
        tc_pause();
        state = atomic_load_explicit(&group->state, memory_order_acquire);
      }
    uint32_t few = FEW_LEFT;
    atomic_compare_exchange_strong(&group->state, &few, ASLEEP);
  }
  while ((state = atomic_load_explicit(&group->state, memory_order_acquire)) != OVER)
    if (!tc_futex_wait(&group->state, state, deadline)) return false;
  return true;
}
