/* SPDX-License-Identifier: Apache-2.0 */
/* A work-group function with every relocation that the loader knows, for loader_test.cpp: RELATIVE (table), 64
   (imported), GLOB_DAT or JUMP_SLOT (the call of memset, without and with a PLT). */
#include <stddef.h>

extern void* memset(void* to, int value, size_t size);

static int zero_initialised[2000];
static int one = 1, two = 2;
static int* const table[] = {&one, &two, &zero_initialised[1999]};
__attribute__((visibility("default"))) void* (*imported)(void*, int, size_t) = memset;

__attribute__((visibility("default"))) void _pocl_kernel_sample_workgroup(void** arguments, void* context, size_t x,
                                                                          size_t y, size_t z) {
  (void)context, (void)y, (void)z;
  int* out = *(int**)arguments[0];
  memset(out, 0, 4 * sizeof(int));
  imported(out + 3, 0x11, sizeof(int));
  out[0] = *table[0] + *table[1] + *table[2];
  out[1] = (int)x;
  zero_initialised[1999] += 1;
}
