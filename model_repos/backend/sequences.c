/* Sequences: the accumulator of every open sequence on one instance, by correlation ID. */
#define _POSIX_C_SOURCE 200809L
#include "sequences.h"

#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "timing.h"

enum { BUCKETS = 1024, FIRST_SWEEP = 4096 };

struct sequence {
  sequence* next;
  uint64_t touched_ns;
  int32_t accumulator;
  char id[];
};

TRITONSERVER_Error* sequences_open(sequences* it, uint64_t idle_us) {
  memset(it, 0, sizeof *it);
  it->buckets = calloc(BUCKETS, sizeof *it->buckets);
  if (it->buckets == NULL) return error_no_memory(BUCKETS * sizeof *it->buckets);
  it->bucket_count = BUCKETS;
  it->sweep_at = FIRST_SWEEP;
  /* The scheduler counts from the arrival of a request, we from its execution: leave it a minute of queue. */
  const uint64_t longest_us = UINT64_C(1) << 40;
  it->idle_ns = (2 * (idle_us < longest_us ? idle_us : longest_us) + 60000000) * 1000;
  return NULL;
}

void sequences_close(sequences* it) {
  for (size_t i = 0; i < it->bucket_count; i++) {
    while (it->buckets[i] != NULL) {
      sequence* next = it->buckets[i]->next;
      free(it->buckets[i]);
      it->buckets[i] = next;
    }
  }
  free(it->buckets);
  memset(it, 0, sizeof *it);
}

static sequence** locate(sequences* it, const char* id) {
  uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
  for (const char* c = id; *c != '\0'; c++) hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
  sequence** link = &it->buckets[hash % it->bucket_count];
  while (*link != NULL && strcmp((*link)->id, id) != 0) link = &(*link)->next;
  return link;
}

int32_t* sequences_find(sequences* it, const char* id) {
  sequence* found = *locate(it, id);
  if (found == NULL) return NULL;
  found->touched_ns = now_ns();
  return &found->accumulator;
}

static void drop(sequences* it, sequence** link) {
  sequence* gone = *link;
  *link = gone->next;
  free(gone);
  it->open--;
}

/* Sequences whose clients went away never see END; without this they would be a leak of ours, not a planted one. */
static void sweep(sequences* it) {
  const uint64_t now = now_ns();
  for (size_t i = 0; i < it->bucket_count; i++) {
    for (sequence** link = &it->buckets[i]; *link != NULL;) {
      if (now - (*link)->touched_ns > it->idle_ns) drop(it, link);
      else link = &(*link)->next;
    }
  }
  it->sweep_at = it->open * 2 > FIRST_SWEEP ? it->open * 2 : FIRST_SWEEP;
}

TRITONSERVER_Error* sequences_start(sequences* it, const char* id, int32_t** accumulator) {
  if (it->open >= it->sweep_at) sweep(it);
  sequence** link = locate(it, id);
  if (*link == NULL) {
    const size_t length = strlen(id) + 1;
    sequence* fresh = calloc(1, sizeof *fresh + length);
    if (fresh == NULL) return error_no_memory(sizeof *fresh + length);
    memcpy(fresh->id, id, length);
    *link = fresh;
    it->open++;
  }
  (*link)->touched_ns = now_ns();
  *accumulator = &(*link)->accumulator;
  return NULL;
}

void sequences_end(sequences* it, const char* id) {
  sequence** link = locate(it, id);
  if (*link != NULL) drop(it, link);
}
