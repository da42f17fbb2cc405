// SPDX-License-Identifier: Apache-2.0
// Parsed before every program: the declarations of OpenCL C's builtins as PoCL's kernel library defines them. Compiled
// into the service as text; precompiled once per set of language options.

// OpenCL C's own types in place of those of C.
#undef __INTPTR_TYPE__
#undef __UINTPTR_TYPE__
#undef __SIZE_TYPE__
#undef __SIZE_MAX__
#define __SIZE_TYPE__ ulong
#define __SIZE_MAX__ ULONG_MAX
#define __INTPTR_TYPE__ long
#define __UINTPTR_TYPE__ ulong

#include "_builtin_renames.h"

// Features that are known to headers only.
#if __OPENCL_C_VERSION__ >= 300
#define __opencl_c_atomic_scope_device 1
#define __opencl_c_atomic_scope_all_devices 1
#endif

#include "opencl-c-base.h"

// The base header switches all of OpenCL C 2.0 on. What MirrorCL lacks is not declared, so that its use is an error of
// the program's own line.
#undef __opencl_c_pipes
#undef __opencl_c_device_enqueue
#undef __opencl_c_work_group_collective_functions
#undef __opencl_c_program_scope_global_variables

#include "_kernel.h"

#if __OPENCL_C_VERSION__ >= 200
// Only from 2.0 on may a grid have smaller last groups. In those PoCL's context is bent so that get_global_id() comes
// out right; sizes and offsets of the whole dispatch are read where each compute unit publishes them
// (device/cpu/work_group_view.h). Not volatile: the values do not change within a work-group, so reads may be moved out
// of loops.
static inline size_t __mirrorcl_view(uint field, uint dimension, size_t beyond) {
  ulong value;
  if (dimension > 2) return beyond;
  __asm__("movq %%fs:(%1), %0" : "=r"(value) : "r"((ulong)(field + 8 * dimension)));
  return value;
}
static inline size_t __mirrorcl_get_global_size(uint dimension) {
  return __mirrorcl_view(0x200, dimension, 1);
}
static inline size_t __mirrorcl_get_global_offset(uint dimension) {
  return __mirrorcl_view(0x218, dimension, 0);
}
static inline size_t __mirrorcl_get_enqueued_local_size(uint dimension) {
  return __mirrorcl_view(0x230, dimension, 1);
}
#define get_global_size(dimension) __mirrorcl_get_global_size(dimension)
#define get_global_offset(dimension) __mirrorcl_get_global_offset(dimension)
#define get_enqueued_local_size(dimension) __mirrorcl_get_enqueued_local_size(dimension)
static inline size_t __mirrorcl_get_global_linear_id(void) {
  size_t x = get_global_id(0) - get_global_offset(0);
  size_t y = get_global_id(1) - get_global_offset(1);
  size_t z = get_global_id(2) - get_global_offset(2);
  return (z * get_global_size(1) + y) * get_global_size(0) + x;
}
#define get_global_linear_id() __mirrorcl_get_global_linear_id()
#elif __OPENCL_C_VERSION__ >= 120
static inline size_t __mirrorcl_get_global_size(uint dimension) {
  return dimension > 2 ? 1 : get_global_size(dimension);
}
#define get_global_size(dimension) __mirrorcl_get_global_size(dimension)
#endif

#if __OPENCL_C_VERSION__ >= 120  // before, there are no static functions
// The kernel library's own are 0 in dimensions that there are not.
static inline size_t __mirrorcl_get_local_size(uint dimension) {
  return dimension > 2 ? 1 : get_local_size(dimension);
}
static inline size_t __mirrorcl_get_num_groups(uint dimension) {
  return dimension > 2 ? 1 : get_num_groups(dimension);
}
#define get_local_size(dimension) __mirrorcl_get_local_size(dimension)
#define get_num_groups(dimension) __mirrorcl_get_num_groups(dimension)
#endif

#ifdef __opencl_c_generic_address_space
// to_global() and its like are clang's own and become calls that module.cpp defines; this one is the kernel library's
// to define, and it does not.
static inline cl_mem_fence_flags __mirrorcl_get_fence(const void* pointer) {
  return to_local(pointer) ? CLK_LOCAL_MEM_FENCE : CLK_GLOBAL_MEM_FENCE;
}
#define get_fence(pointer) __mirrorcl_get_fence(pointer)
#endif

// The headers need these to parse; images are not supported.
#undef __opencl_c_images
#undef __opencl_c_read_write_images
#undef __opencl_c_3d_image_writes
// PoCL's own switches.
#undef cl_khr_int64
#undef POCL_DEVICE_ADDRESS_BITS
#undef CLANG_MAJOR
