// SPDX-License-Identifier: Apache-2.0
// System calls without libc: for the firmware, which has none, and for the pinned threads of mirror/, which must not
// touch libc's data or errno (both can lie in memory that migrates). The result is the kernel's own: >= 0, or -errno.
#pragma once

#include <sys/syscall.h>

#include <type_traits>

namespace mirrorcl {

template <typename T>
inline long syscall_argument(T value) noexcept {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<long>(value);
  } else if constexpr (std::is_null_pointer_v<T>) {
    return 0;
  } else {
    return static_cast<long>(value);
  }
}

#ifdef __clang_analyzer__
// The static analyzer knows of no memory that assembly writes: what a system call has filled would be garbage to it, or
// still what it was before. Of a function without a body it expects everything.
long raw_syscall6(long number, long a, long b, long c, long d, long e, long f) noexcept;
#else
inline long raw_syscall6(long number, long a, long b, long c, long d, long e, long f) noexcept {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}
#endif

#ifdef MIRRORCL_SYSTEM_CALL_HOOK
// In tests that inject faults the caller's sources are built with this set, and the test says what a system call does.
// A namespace of their own keeps these functions apart from those of sources built without.
long hooked_system_call(long number, long a, long b, long c, long d, long e, long f) noexcept;
inline namespace hooked {
#endif

template <typename A = long, typename B = long, typename C = long, typename D = long, typename E = long,
          typename F = long>
inline long raw_syscall(long number, A a = 0, B b = 0, C c = 0, D d = 0, E e = 0, F f = 0) noexcept {
#ifdef MIRRORCL_SYSTEM_CALL_HOOK
  return hooked_system_call(number, syscall_argument(a), syscall_argument(b), syscall_argument(c), syscall_argument(d),
                            syscall_argument(e), syscall_argument(f));
#else
  return raw_syscall6(number, syscall_argument(a), syscall_argument(b), syscall_argument(c), syscall_argument(d),
                      syscall_argument(e), syscall_argument(f));
#endif
}

#ifdef MIRRORCL_SYSTEM_CALL_HOOK
}  // namespace hooked
#endif

}  // namespace mirrorcl
