// SPDX-License-Identifier: Apache-2.0
// A mutual-exclusion lock of one futex word, without libc: its whole state is that word, so that it can lie in pinned
// memory and a pinned thread may try it. A pinned thread must never wait for it (lock()) if application threads hold
// it too: the holder may be waiting for that very thread to serve a page fault. try_lock() never waits.
// Meets the standard's Lockable requirements.
#pragma once

#include "base/futex.h"
#include "base/thread_annotations.h"

namespace mirrorcl {

class MIRRORCL_LOCK_TYPE("mutex") FutexLock {
 public:
  bool try_lock() noexcept MIRRORCL_TRY_ACQUIRE(true) {
    std::uint32_t expected = kFree;
    return word_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire, std::memory_order_relaxed);
  }

  void lock() noexcept MIRRORCL_ACQUIRE() {
    if (try_lock()) return;
    while (word_.exchange(kContended, std::memory_order_acquire) != kFree) futex_wait(&word_, kContended);
  }

  void unlock() noexcept MIRRORCL_RELEASE() {
    if (word_.exchange(kFree, std::memory_order_release) == kContended) futex_wake(&word_, 1);
  }

 private:
  static constexpr std::uint32_t kFree = 0;
  static constexpr std::uint32_t kHeld = 1;
  static constexpr std::uint32_t kContended = 2;  // held, and somebody may sleep

  FutexWord word_{kFree};
};

}  // namespace mirrorcl
