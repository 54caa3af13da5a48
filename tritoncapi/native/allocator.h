/* Response allocators, as other parts see them. */
#ifndef TRITONCAPI_ALLOCATOR_H
#define TRITONCAPI_ALLOCATOR_H

#include <stdint.h>

struct tc_allocator;

uint64_t tc_allocator_live_bytes(struct tc_allocator *allocator); /* of buffers that are out, at this moment */

#endif
