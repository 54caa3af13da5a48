/* JSON: a reader for the small documents that Triton hands to a backend (model configuration, host policy). */
#define _POSIX_C_SOURCE 200809L
#include "json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

typedef struct {
  const char* at;
  const char* end;
} reader;

static void skip_space(reader* r) {
  while (r->at < r->end && strchr(" \t\r\n", *r->at) != NULL) r->at++;
}

static bool take(reader* r, char wanted) {
  skip_space(r);
  if (r->at >= r->end || *r->at != wanted) return false;
  r->at++;
  return true;
}

static bool read_hex4(reader* r, unsigned* code) {
  *code = 0;
  for (int i = 0; i < 4; i++) {
    if (r->at >= r->end) return false;
    const char c = *r->at++;
    unsigned digit;
    if (c >= '0' && c <= '9') digit = (unsigned)(c - '0');
    else if (c >= 'a' && c <= 'f') digit = (unsigned)(c - 'a') + 10u;
    else if (c >= 'A' && c <= 'F') digit = (unsigned)(c - 'A') + 10u;
    else return false;
    *code = *code * 16u + digit;
  }
  return true;
}

static char* put_utf8(char* out, unsigned code) {
  if (code < 0x80u) {
    *out++ = (char)code;
  } else if (code < 0x800u) {
    *out++ = (char)(0xC0u | (code >> 6));
    *out++ = (char)(0x80u | (code & 0x3Fu));
  } else if (code < 0x10000u) {
    *out++ = (char)(0xE0u | (code >> 12));
    *out++ = (char)(0x80u | ((code >> 6) & 0x3Fu));
    *out++ = (char)(0x80u | (code & 0x3Fu));
  } else {
    *out++ = (char)(0xF0u | (code >> 18));
    *out++ = (char)(0x80u | ((code >> 12) & 0x3Fu));
    *out++ = (char)(0x80u | ((code >> 6) & 0x3Fu));
    *out++ = (char)(0x80u | (code & 0x3Fu));
  }
  return out;
}

static bool read_escape(reader* r, char** out) {
  if (r->at >= r->end) return false;
  const char c = *r->at++;
  static const char from[] = "\"\\/bfnrt";
  static const char to[] = "\"\\/\b\f\n\r\t";
  const char* known = c == '\0' ? NULL : strchr(from, c);
  if (known != NULL) {
    *(*out)++ = to[known - from];
    return true;
  }
  unsigned code;
  if (c != 'u' || !read_hex4(r, &code)) return false;
  if (code >= 0xD800u && code < 0xDC00u) {
    unsigned low;
    if (r->end - r->at < 6 || r->at[0] != '\\' || r->at[1] != 'u') return false;
    r->at += 2;
    if (!read_hex4(r, &low) || low < 0xDC00u || low > 0xDFFFu) return false;
    code = 0x10000u + ((code - 0xD800u) << 10) + (low - 0xDC00u);
  }
  *out = put_utf8(*out, code);
  return true;
}

static char* read_string(reader* r) {
  if (!take(r, '"')) return NULL;
  const char* closing = r->at;
  while (closing < r->end && *closing != '"') closing += *closing == '\\' ? 2 : 1;
  if (closing >= r->end) return NULL;
  /* No escape is shorter than what it stands for, so the raw length is room enough. */
  char* text = malloc((size_t)(closing - r->at) + 1);
  if (text == NULL) return NULL;
  char* out = text;
  while (*r->at != '"') {
    if (*r->at != '\\') {
      *out++ = *r->at++;
      continue;
    }
    r->at++;
    if (!read_escape(r, &out)) {
      free(text);
      return NULL;
    }
  }
  r->at++;
  *out = '\0';
  return text;
}

static json* read_value(reader* r, int depth);

static bool read_children(reader* r, json* parent, char closing, int depth) {
  json** tail = &parent->child;
  if (take(r, closing)) return true;
  do {
    char* key = NULL;
    if (parent->kind == JSON_OBJECT) {
      key = read_string(r);
      if (key == NULL || !take(r, ':')) {
        free(key);
        return false;
      }
    }
    json* child = read_value(r, depth + 1);
    if (child == NULL) {
      free(key);
      return false;
    }
    child->key = key;
    *tail = child;
    tail = &child->next;
  } while (take(r, ','));
  return take(r, closing);
}

static char* read_plain(reader* r) {
  const char* start = r->at;
  while (r->at < r->end && strchr(" \t\r\n,]}", *r->at) == NULL) r->at++;
  return r->at == start ? NULL : strndup(start, (size_t)(r->at - start));
}

static json* read_value(reader* r, int depth) {
  skip_space(r);
  if (depth > MAX_DEPTH || r->at >= r->end) return NULL;
  json* value = calloc(1, sizeof *value);
  if (value == NULL) return NULL;
  bool good;
  if (*r->at == '{' || *r->at == '[') {
    value->kind = *r->at == '{' ? JSON_OBJECT : JSON_ARRAY;
    const char closing = *r->at == '{' ? '}' : ']';
    r->at++;
    good = read_children(r, value, closing, depth);
  } else {
    value->kind = *r->at == '"' ? JSON_STRING : JSON_PLAIN;
    value->text = value->kind == JSON_STRING ? read_string(r) : read_plain(r);
    good = value->text != NULL;
  }
  if (good) return value;
  json_free(value);
  return NULL;
}

json* json_parse(const char* text, size_t size) {
  reader r = {text, text + size};
  json* value = read_value(&r, 0);
  skip_space(&r);
  /* Some serialisers count the terminating zero. */
  if (value != NULL && r.at < r.end && *r.at != '\0') {
    json_free(value);
    return NULL;
  }
  return value;
}

void json_free(json* value) {
  while (value != NULL) {
    json* next = value->next;
    json_free(value->child);
    free(value->key);
    free(value->text);
    free(value);
    value = next;
  }
}

const json* json_get(const json* object, const char* key) {
  if (object == NULL || object->kind != JSON_OBJECT) return NULL;
  for (const json* member = object->child; member != NULL; member = member->next) {
    if (strcmp(member->key, key) == 0) return member;
  }
  return NULL;
}

const char* json_text(const json* value, const char* otherwise) {
  return value != NULL && value->text != NULL ? value->text : otherwise;
}

bool json_true(const json* value) { return strcmp(json_text(value, "false"), "true") == 0; }

uint64_t json_uint(const json* value, uint64_t otherwise) {
  const char* text = json_text(value, "");
  char* end;
  const unsigned long long number = strtoull(text, &end, 10);
  return end == text || *end != '\0' ? otherwise : number;
}

size_t json_count(const json* value) {
  size_t count = 0;
  for (const json* child = value == NULL ? NULL : value->child; child != NULL; child = child->next) count++;
  return count;
}
