/* Groups: calls that are waited for together. */
#ifndef TRITONCAPI_GROUP_H
#define TRITONCAPI_GROUP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tc_group {
  _Atomic uint32_t left;  /* calls that are not done, and one more until they are waited for */
  _Atomic uint32_t state; /* a futex */
  uint32_t few;           /* left: worth waking who waits; 0: it is woken at the end alone */
  void (*meanwhile)(void *userp); /* what who waits does before, and while it looks */
  void *userp;
};

void tc_group_open(struct tc_group *group, size_t count, void (*meanwhile)(void *userp), void *userp);
void tc_group_add(struct tc_group *group, size_t count);
void tc_group_remove(struct tc_group *group, size_t count);
_Atomic uint32_t *tc_group_leave(struct tc_group *group);
bool tc_group_wait(struct tc_group *group, int64_t deadline);
void tc_group_close(struct tc_group *group);

#endif
