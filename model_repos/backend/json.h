/* JSON: a reader for the small documents that Triton hands to a backend (model configuration, host policy). */
#ifndef TRITONCAPI_TEST_JSON_H
#define TRITONCAPI_TEST_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { JSON_OBJECT, JSON_ARRAY, JSON_STRING, JSON_PLAIN } json_kind;

/* One value. Members of an object and elements of an array hang off `child`, chained by `next`. */
typedef struct json {
  json_kind kind;
  char* key;  /* the member's name, NULL outside an object */
  char* text; /* a string without its escapes, or a number, true, false, null as written */
  struct json* child;
  struct json* next;
} json;

/* NULL when the text is not JSON or memory ran out; json_free takes the result. */
json* json_parse(const char* text, size_t size);
void json_free(json* value);

/* The member of an object, NULL when there is none (or `object` is NULL), so that calls can be chained. */
const json* json_get(const json* object, const char* key);
const char* json_text(const json* value, const char* otherwise);
bool json_true(const json* value);
/* Reads numbers also where they stand in quotes, as 64-bit numbers do in protobuf's JSON. */
uint64_t json_uint(const json* value, uint64_t otherwise);
size_t json_count(const json* value);

#endif
