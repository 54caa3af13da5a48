/* Groups: calls that are waited for together, by one thread, which is woken for all of them and not for each.
 *
 * One that sleeps is woken late, and finds nothing in its caches: what it does next, while no model works, takes several
 * times as long. Where there are cores to spare it looks all the time, as long as its groups have been quick; if they
 * have not, it is woken when few are left, and looks for the last ones. */
#define _GNU_SOURCE
#include "group.h"

#include "cores.h"
#include "futex.h"
#include "patience.h"

enum { UNTIL_FEW, LOOKS, UNTIL_END, OVER }; /* who waits: sleeps until few are left; looks; sleeps until the end; - */
enum { FEW = 8, CORES_EACH = 8 };
static const int64_t QUICK_NS = 1000000;

static atomic_int lookers;

void tc_group_open(struct tc_group *group, size_t count, void (*meanwhile)(void *userp), void *userp) {
  uint32_t few = count / 2 < FEW ? (uint32_t)(count / 2) : FEW;
  /* A core that looks is one less for the models: they have more than one thread for so many requests. */
  bool spare = few && CORES_EACH * (atomic_fetch_add_explicit(&lookers, 1, memory_order_relaxed) + 1) <= tc_cores();
  if (few && !spare) atomic_fetch_sub_explicit(&lookers, 1, memory_order_relaxed);
  *group = (struct tc_group){
      .left = 1, .state = UNTIL_FEW, .few = spare ? few : 0, .meanwhile = meanwhile, .userp = userp};
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
  uint32_t few = group->few, sleeps = UNTIL_FEW;
  bool tell = few && atomic_load_explicit(&group->left, memory_order_relaxed) == few + 1 &&
              atomic_compare_exchange_strong(state, &sleeps, LOOKS);
  bool looks = atomic_fetch_sub(&group->left, 1) == 1 ? atomic_exchange(state, OVER) == LOOKS : true;
  return tell || !looks ? state : NULL;
}

static void go_over(struct tc_group *group, uint32_t from, uint32_t to) {
  atomic_compare_exchange_strong(&group->state, &from, to);
}

/* Looks until all are done, or the time is over. */
static void look(struct tc_group *group, int64_t end) {
  for (; tc_now() < end; group->meanwhile(group->userp))
    for (int i = 0; i < TC_LOOKS; i++) {
      if (atomic_load_explicit(&group->state, memory_order_acquire) != LOOKS) return;
      tc_pause();
    }
}

static bool wait_for_last(struct tc_group *group, uint32_t left, bool quick, int64_t now, int64_t deadline) {
  /* While the others were not submitted, few may have been left for a moment: then it says LOOKS already. */
  bool looks = quick || left <= group->few;
  go_over(group, looks ? UNTIL_FEW : LOOKS, looks ? LOOKS : UNTIL_FEW);
  if (quick) {
    look(group, deadline < 0 || deadline > now + QUICK_NS ? now + QUICK_NS : deadline);
    if (atomic_load_explicit(&group->left, memory_order_relaxed) > group->few) go_over(group, LOOKS, UNTIL_FEW);
  }
  uint32_t state;
  while ((state = atomic_load_explicit(&group->state, memory_order_acquire)) == UNTIL_FEW)
    if (!tc_futex_wait(&group->state, UNTIL_FEW, deadline)) return false;
  if (state == LOOKS) {
    look(group, tc_now() + TC_MOMENT_NS);
    go_over(group, LOOKS, UNTIL_END);
  }
  while ((state = atomic_load_explicit(&group->state, memory_order_acquire)) != OVER)
    if (!tc_futex_wait(&group->state, state, deadline)) return false;
  return true;
}

/* Waits until all are done; false when the time is over. */
bool tc_group_wait(struct tc_group *group, int64_t deadline) {
  static _Thread_local int64_t usual_ns;
  group->meanwhile(group->userp);
  uint32_t left = atomic_fetch_sub(&group->left, 1) - 1;
  if (!left) return true;
  int64_t began = tc_now();
  bool over = wait_for_last(group, left, group->few && usual_ns <= QUICK_NS, began, deadline);
  tc_note_usual(&usual_ns, tc_now() - began, QUICK_NS);
  return over;
}
