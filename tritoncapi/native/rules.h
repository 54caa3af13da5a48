/* Rules: where an output goes; and the names of outputs, kept for those who read records. */
#ifndef TRITONCAPI_RULES_H
#define TRITONCAPI_RULES_H

#include <stdatomic.h>
#include <stdint.h>

enum { TC_FIXED = 0, TC_PREFERRED = 1, TC_FAIL = 2 };

struct tc_rule {
  char *tensor; /* NULL: the rule for all others */
  int mode;
  int memory_type;
  int64_t memory_type_id;
  int error_code;
  char *message;
  struct tc_rule *next;
};

struct tc_name;
struct tc_names {
  _Atomic(struct tc_name *) first;
};

/* Makes the rule the first one: an older one for the same tensor is then never reached. Before the first request, since
 * rules are read without a lock. Returns 0, or -1 without memory. */
int tc_rules_add(
    struct tc_rule **rules, const char *tensor, int mode, int memory_type, int64_t memory_type_id, int error_code,
    const char *message);
const struct tc_rule *tc_rules_find(const struct tc_rule *rules, const char *tensor); /* as preferred without any */
void tc_rules_free(struct tc_rule *rules);

/* Their own copy of a name, there until they are freed; NULL without memory. */
const char *tc_names_keep(struct tc_names *names, const char *text);
void tc_names_free(struct tc_names *names);

#endif
