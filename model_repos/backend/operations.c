/* Operations: the list of them. */
#include "operations.h"

#include <string.h>

#include "errors.h"

static const operation* const all[] = {&operation_add_sub, &operation_identity, &operation_accumulate,
                                       &operation_repeat};

TRITONSERVER_Error* operation_find(const char* name, const operation** found) {
  if (name == NULL) name = operation_add_sub.name;
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    if (strcmp(all[i]->name, name) == 0) {
      *found = all[i];
      return NULL;
    }
  }
  return error_new(TRITONSERVER_ERROR_INVALID_ARG,
                   "unknown operation '%s'; the known ones are add_sub, identity, accumulate, repeat", name);
}
