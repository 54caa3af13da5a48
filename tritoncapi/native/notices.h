/* Notices: which calls something happened to, for those who do not wait for one call in person. */
#ifndef TRITONCAPI_NOTICES_H
#define TRITONCAPI_NOTICES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A lock that is held for a moment only: who finds it taken looks again before going to sleep, from which one is woken late. */
void tc_lock_init(pthread_mutex_t *lock);

/* Conditions on CLOCK_MONOTONIC, and deadlines in ns (negative: for ever). */
void tc_condition_init(pthread_cond_t *condition);
bool tc_wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, int64_t deadline); /* false: the time is over */
int64_t tc_deadline_after(int64_t timeout_ns);

/* For the dispatcher: any event of a call that asked for it. */
void tc_notice_post(uint64_t key);

/* For an event loop: calls that are done. Its owner holds it, and every call that may still post. */
struct tc_inbox;
void tc_inbox_hold(struct tc_inbox *inbox);
void tc_inbox_drop(struct tc_inbox *inbox);
void tc_inbox_post(struct tc_inbox *inbox, uint64_t key);
size_t tc_inbox_take(struct tc_inbox *inbox, uint64_t *keys, size_t limit);

#endif
