// SPDX-License-Identifier: Apache-2.0
// Which sanitizer this build is instrumented by, for tests that do what a sanitizer's runtime cannot follow.
// (UndefinedBehaviorSanitizer cannot be told, and needs no exceptions.)
#pragma once

#ifdef __has_feature  // clang
#define MIRRORCL_HAS_FEATURE(feature) __has_feature(feature)
#else
#define MIRRORCL_HAS_FEATURE(feature) 0
#endif

namespace mirrorcl {

#if defined(__SANITIZE_THREAD__) || MIRRORCL_HAS_FEATURE(thread_sanitizer)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

#if defined(__SANITIZE_ADDRESS__) || MIRRORCL_HAS_FEATURE(address_sanitizer)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

// Their runtimes have allocators of their own.
inline constexpr bool kMallocOfLibc = !kThreadSanitizer && !kAddressSanitizer;

}  // namespace mirrorcl

#undef MIRRORCL_HAS_FEATURE
