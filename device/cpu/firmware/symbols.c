/* SPDX-License-Identifier: Apache-2.0 */
#include "device/cpu/firmware/symbols.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* clang-format off */

/* What LLVM's code generator calls for operations that the processor lacks; from libgcc. */
#define FOR_EACH_HELPER(X)                                                                                      \
  X(__addtf3) X(__subtf3) X(__multf3) X(__divtf3) X(__ashlti3) X(__ashrti3) X(__lshrti3) X(__multi3)            \
  X(__divti3) X(__modti3) X(__udivti3) X(__umodti3) X(__powisf2) X(__powidf2) X(__fixsfti) X(__fixdfti)         \
  X(__fixunssfti) X(__fixunsdfti) X(__floattisf) X(__floattidf) X(__floatuntisf) X(__floatuntidf)               \
  X(__popcountdi2) X(__popcountti2) X(__clzdi2) X(__ctzdi2)     \
  X(__extendhfsf2) X(__extendhfdf2) X(__truncsfhf2) X(__truncdfhf2)

/* C's mathematical functions of one to three arguments: the double and the float version of each. */
#define FOR_EACH_MATH(X)                                                                                        \
  X(acos) X(acosh) X(asin) X(asinh) X(atan) X(atan2) X(atanh) X(cbrt) X(ceil) X(copysign) X(cos) X(cosh)        \
  X(erf) X(erfc) X(exp) X(exp10) X(exp2) X(expm1) X(fabs) X(fdim) X(floor) X(fma) X(fmax) X(fmin) X(fmod)       \
  X(frexp) X(hypot) X(ilogb) X(ldexp) X(lgamma) X(lgamma_r) X(llrint) X(llround) X(log) X(log10) X(log1p)       \
  X(log2) X(logb) X(lrint) X(lround) X(modf) X(nearbyint) X(nextafter) X(pow) X(remainder) X(remquo) X(rint)    \
  X(round) X(scalbln) X(scalbn) X(sin) X(sincos) X(sinh) X(sqrt) X(tan) X(tanh) X(tgamma) X(trunc)

#define FOR_EACH_PLAIN(X)                                                                                       \
  X(memchr) X(memcmp) X(memcpy) X(memmove) X(memset) X(snprintf) X(strchr) X(strcmp) X(strlen) X(strncmp)       \
  X(strnlen) X(vsnprintf)

#define DECLARE_HELPER(name) extern void name(void);
FOR_EACH_HELPER(DECLARE_HELPER)
/* GNU's, which musl declares only for _GNU_SOURCE. */
extern double exp10(double);
extern float exp10f(float);
extern double lgamma_r(double, int*);
extern float lgammaf_r(float, int*);
extern void sincos(double, double*, double*);
extern void sincosf(float, float*, float*);
#define lgamma_rf lgammaf_r

#define NAME_ADDRESS(name) {#name, (const void*)name},
#define MATH(name) {#name, (const void*)name}, MATH_FLOAT(name, name##f)
#define MATH_FLOAT(name, float_name) MATH_NAMED(float_name)
#define MATH_NAMED(name) {MATH_TEXT(name), (const void*)name},
#define MATH_TEXT(name) #name

const struct MirrorclSymbol mirrorcl_symbols[] = {
  FOR_EACH_PLAIN(NAME_ADDRESS)
  FOR_EACH_MATH(MATH)
  FOR_EACH_HELPER(NAME_ADDRESS)
  {NULL, NULL},
};
