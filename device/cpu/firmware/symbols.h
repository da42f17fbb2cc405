/* SPDX-License-Identifier: Apache-2.0 */
/* The functions that the firmware offers to kernels. C, because C++ overloads the names of the mathematical ones. */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

struct MirrorclSymbol {
  const char* name;
  const void* address;
};

/* Ends with a null name. */
extern const struct MirrorclSymbol mirrorcl_symbols[];

#ifdef __cplusplus
}
#endif
