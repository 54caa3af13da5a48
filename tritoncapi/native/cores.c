/* Cores that this process may use: who waits awake takes one. A container's share of them is no set of cores, but time
 * on them: used up by waiting, it is lacking for the models. */
#define _GNU_SOURCE
#include "cores.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static atomic_int cores;

/* For tests, and for who knows better; 0: to be counted. */
void tc_cores_set(int count) { atomic_store(&cores, count); }

enum { LINE = 4096 + 64, PATH = LINE + 64, MOST = 1 << 20 };

/* The numbers that a file of a group begins with; returns how many there are. */
static int numbers(const char *folder, const char *name, long long *first, long long *second) {
  char path[PATH + 32];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  int found = fscanf(file, "%lld %lld", first, second);
  fclose(file);
  return found < 0 ? 0 : found;
}

/* How many cores' time a group has by its file cpu.max ("max 100000", "150000 100000"), or by those of version 1, one for
 * each number; 0 for no limit, or no such file. */
static int limit_of(const char *folder) {
  long long quota = 0, period = 0, none;
  if (numbers(folder, "cpu.max", &quota, &period) != 2 &&
      (!numbers(folder, "cpu.cfs_quota_us", &quota, &none) || !numbers(folder, "cpu.cfs_period_us", &period, &none)))
    return 0;
  if (quota <= 0 || period <= 0) return 0;
  long long limit = quota / period;
  return limit < 1 ? 1 : limit < MOST ? (int)limit : MOST;
}

/* The least of what a group and those above it have, 0 for no limit. `group` begins with a slash. */
static int least_of(const char *mount, const char *group, int least) {
  char folder[PATH];
  if ((size_t)snprintf(folder, sizeof folder, "%s%s", mount, group) >= sizeof folder) return least;
  for (;;) {
    int limit = limit_of(folder);
    if (limit && (!least || limit < least)) least = limit;
    char *cut = strrchr(folder, '/');
    if (!cut || cut < folder + strlen(mount)) return least;
    *cut = '\0';
  }
}

/* What the control groups of /proc/self/cgroup leave, 0 for no limit; a container that has only its own group mounted
 * finds that at the top. */
int tc_cores_of_groups(const char *list, const char *mounts) {
  char line[LINE], mount[PATH];
  FILE *file = fopen(list, "re");
  if (!file) return 0;
  int least = 0;
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group || group[1] != '/') continue;
    *group++ = '\0';
    controllers++;
    /* Version 2 has all in one place; of version 1, what is mounted may be called otherwise than here, "cpu" mostly too. */
    const char *const names[] = {*controllers ? controllers : ".", "cpu"};
    char framed[LINE + 2];
    snprintf(framed, sizeof framed, ",%s,", controllers);
    if (*controllers && !strstr(framed, ",cpu,")) continue;
    for (int i = 0; i < (*controllers ? 2 : 1); i++)
      if ((size_t)snprintf(mount, sizeof mount, "%s/%s", mounts, names[i]) < sizeof mount)
        least = least_of(mount, group, least);
  }
  fclose(file);
  return least;
}

int tc_cores(void) {
  int known = atomic_load_explicit(&cores, memory_order_relaxed);
  if (known) return known;
  cpu_set_t set;
  known = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
  int limit = tc_cores_of_groups("/proc/self/cgroup", "/sys/fs/cgroup");
  if (limit && limit < known) known = limit;
  atomic_store_explicit(&cores, known, memory_order_relaxed);
  return known;
}
