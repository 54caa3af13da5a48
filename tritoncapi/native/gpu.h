/* Pinned and GPU memory for the response allocators, through the CUDA driver API found at run time. */
#ifndef TRITONCAPI_GPU_H
#define TRITONCAPI_GPU_H

#include <stddef.h>
#include <stdint.h>

/* Each returns NULL, or a static or thread-local sentence that says what failed. */
const char *tc_pinned_alloc(size_t byte_size, void **buffer);
const char *tc_pinned_free(void *buffer);
const char *tc_gpu_alloc(int device, size_t byte_size, void **buffer);
const char *tc_gpu_free(int device, void *buffer);
const char *tc_gpu_fill(int device, void *buffer, size_t byte_size, unsigned char value);
const char *tc_gpu_ipc_handle(int device, void *buffer, unsigned char handle[64]);

#endif
