// SPDX-License-Identifier: Apache-2.0
// Futexes on words of shared memory, across processes, without libc. Usable in the firmware and in pinned threads.
#pragma once

#include <linux/futex.h>
#include <linux/time_types.h>

#include <atomic>
#include <cstdint>

#include "base/raw_syscall.h"

namespace mirrorcl {

using FutexWord = std::atomic<std::uint32_t>;

// Sleeps while *word == expected, at most timeout_ns nanoseconds (negative: for ever). Returns 0, -EAGAIN, -EINTR or
// -ETIMEDOUT; the caller looks at the word again in every case.
inline long futex_wait(FutexWord* word, std::uint32_t expected, std::int64_t timeout_ns = -1) noexcept {
  __kernel_timespec timeout{timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
  return raw_syscall(SYS_futex, word, FUTEX_WAIT, expected, timeout_ns < 0 ? nullptr : &timeout);
}

// Wakes up to `count` sleepers; returns how many.
inline long futex_wake(FutexWord* word, int count) noexcept {
  return raw_syscall(SYS_futex, word, FUTEX_WAKE, count);
}

// The same among the threads of this process, for a word in memory that the mirror may move or make coherent meanwhile:
// the kernel files private futexes under their address alone, while std::atomic's wait uses the other kind, whose
// sleepers nobody finds once the page behind the word is another one.
inline long private_futex_wait(FutexWord* word, std::uint32_t expected) noexcept {
  return raw_syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr);
}
inline long private_futex_wake(FutexWord* word, int count) noexcept {
  return raw_syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count);
}

inline void cpu_relax() noexcept {
  __builtin_ia32_pause();
}

}  // namespace mirrorcl
