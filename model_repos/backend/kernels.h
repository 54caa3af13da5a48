/* Kernels: the device code, as PTX text that the driver compiles for whatever GPU is there. */
#ifndef TRITONCAPI_TEST_KERNELS_H
#define TRITONCAPI_TEST_KERNELS_H

/* Entries add_s32, sub_s32, add_f32, sub_f32, each with the parameters
 * (u64 result, u64 left, u64 right, u64 count): three device addresses and a number of elements.
 */
extern const char kernels_ptx[];

#endif
