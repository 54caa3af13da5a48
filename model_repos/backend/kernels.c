/* Kernels: the device code, as PTX text that the driver compiles for whatever GPU is there. */
#include "kernels.h"

/* One thread walks the elements i, i + all threads, ...; the test before the body is the bounds check. `rn` keeps
 * the float results equal to the host's, bit for bit.
 */
#define KERNEL(entry, instruction, type)                                                              \
  ".visible .entry " entry "(.param .u64 result, .param .u64 left, .param .u64 right, .param .u64 count)\n" \
  "{\n"                                                                                               \
  "  .reg .pred %outside;\n"                                                                          \
  "  .reg .u32 %block, %width, %lane, %blocks;\n"                                                     \
  "  .reg .u64 %to, %a, %b, %n, %i, %step, %offset, %at;\n"                                           \
  "  .reg ." type " %x, %y;\n"                                                                        \
  "  ld.param.u64 %to, [result];\n"                                                                   \
  "  ld.param.u64 %a, [left];\n"                                                                      \
  "  ld.param.u64 %b, [right];\n"                                                                     \
  "  ld.param.u64 %n, [count];\n"                                                                     \
  "  cvta.to.global.u64 %to, %to;\n"                                                                  \
  "  cvta.to.global.u64 %a, %a;\n"                                                                    \
  "  cvta.to.global.u64 %b, %b;\n"                                                                    \
  "  mov.u32 %block, %ctaid.x;\n"                                                                     \
  "  mov.u32 %width, %ntid.x;\n"                                                                      \
  "  mov.u32 %lane, %tid.x;\n"                                                                        \
  "  mov.u32 %blocks, %nctaid.x;\n"                                                                   \
  "  cvt.u64.u32 %at, %lane;\n"                                                                       \
  "  mul.wide.u32 %i, %block, %width;\n"                                                              \
  "  add.u64 %i, %i, %at;\n"                                                                          \
  "  mul.wide.u32 %step, %blocks, %width;\n"                                                          \
  "next:\n"                                                                                           \
  "  setp.ge.u64 %outside, %i, %n;\n"                                                                 \
  "  @%outside bra done;\n"                                                                           \
  "  shl.b64 %offset, %i, 2;\n"                                                                       \
  "  add.u64 %at, %a, %offset;\n"                                                                     \
  "  ld.global." type " %x, [%at];\n"                                                                 \
  "  add.u64 %at, %b, %offset;\n"                                                                     \
  "  ld.global." type " %y, [%at];\n"                                                                 \
  "  " instruction " %x, %x, %y;\n"                                                                   \
  "  add.u64 %at, %to, %offset;\n"                                                                    \
  "  st.global." type " [%at], %x;\n"                                                                 \
  "  add.u64 %i, %i, %step;\n"                                                                        \
  "  bra next;\n"                                                                                     \
  "done:\n"                                                                                           \
  "  ret;\n"                                                                                          \
  "}\n"

const char kernels_ptx[] =
    ".version 6.0\n"
    ".target sm_50\n"
    ".address_size 64\n"
    KERNEL("add_s32", "add.s32", "s32")
    KERNEL("sub_s32", "sub.s32", "s32")
    KERNEL("add_f32", "add.rn.f32", "f32")
    KERNEL("sub_f32", "sub.rn.f32", "f32");
