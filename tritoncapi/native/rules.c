/* Rules, and names of outputs. A model has few of either. */
#define _GNU_SOURCE
#include "rules.h"

#include <stdlib.h>
#include <string.h>

int tc_rules_add(
    struct tc_rule **rules, const char *tensor, int mode, int memory_type, int64_t memory_type_id, int error_code,
    const char *message) {
  struct tc_rule *fresh = calloc(1, sizeof *fresh);
  if (!fresh) return -1;
  fresh->tensor = tensor ? strdup(tensor) : NULL;
  fresh->message = message ? strdup(message) : NULL;
  fresh->mode = mode;
  fresh->memory_type = memory_type;
  fresh->memory_type_id = memory_type_id;
  fresh->error_code = error_code;
  fresh->next = *rules;
  *rules = fresh;
  return 0;
}

const struct tc_rule *tc_rules_find(const struct tc_rule *rules, const char *tensor) {
  static const struct tc_rule as_preferred = {.mode = TC_PREFERRED};
  const struct tc_rule *fallback = NULL;
  for (const struct tc_rule *rule = rules; rule; rule = rule->next) {
    if (rule->tensor && tensor && strcmp(rule->tensor, tensor) == 0) return rule;
    if (!rule->tensor && !fallback) fallback = rule;
  }
  return fallback ? fallback : &as_preferred;
}

void tc_rules_free(struct tc_rule *rules) {
  for (struct tc_rule *rule = rules, *next; rule; rule = next) {
    next = rule->next;
    free(rule->tensor);
    free(rule->message);
    free(rule);
  }
}

struct tc_name {
  struct tc_name *next;
  char text[];
};

const char *tc_names_keep(struct tc_names *names, const char *text) {
  struct tc_name *first = atomic_load_explicit(&names->first, memory_order_acquire), *seen = NULL, *fresh = NULL;
  for (;;) {
    for (struct tc_name *name = first; name != seen; name = name->next)
      if (strcmp(name->text, text) == 0) {
        free(fresh);
        return name->text;
      }
    size_t size = strlen(text) + 1;
    if (!fresh && !(fresh = malloc(sizeof *fresh + size))) return NULL;
    memcpy(fresh->text, text, size);
    fresh->next = seen = first;
    if (atomic_compare_exchange_strong(&names->first, &first, fresh)) return fresh->text;
    /* Another thread put one before it, maybe the same. */
  }
}

void tc_names_free(struct tc_names *names) {
  for (struct tc_name *name = atomic_load(&names->first), *next; name; name = next) {
    next = name->next;
    free(name);
  }
}
