// SPDX-License-Identifier: Apache-2.0
// The order in which application threads take the mirror's locks (locking.h), asserted in builds that have assertions:
// a thread that holds a lock may only take one that comes after it.
#pragma once

#include <cassert>
#include <cstdint>

#include "base/mutex.h"

namespace mirrorcl::mirror {

enum class LockOrder : std::uint8_t { kNone, kStart, kPublish, kRequest };

// A place in the order, held as long as this lives.
class OrderedScope {
 public:
#ifdef NDEBUG
  explicit OrderedScope(LockOrder) noexcept {}
#else
  explicit OrderedScope(LockOrder order) noexcept : before_(s_held) {
    assert(order > before_ && "locks are taken in the order of locking.h");
    s_held = order;
  }
  ~OrderedScope() {
    s_held = before_;
  }

 private:
  static inline thread_local LockOrder s_held = LockOrder::kNone;
  const LockOrder before_;

 public:
#endif
  OrderedScope(const OrderedScope&) = delete;
  OrderedScope& operator=(const OrderedScope&) = delete;
};

class MIRRORCL_SCOPED_LOCK_TYPE OrderedLock {
 public:
  OrderedLock(Mutex& mutex, LockOrder order) MIRRORCL_ACQUIRE(mutex) : scope_(order), mutex_(mutex) { mutex_.lock(); }
  ~OrderedLock() MIRRORCL_RELEASE() { mutex_.unlock(); }
  OrderedLock(const OrderedLock&) = delete;
  OrderedLock& operator=(const OrderedLock&) = delete;

 private:
  OrderedScope scope_;
  Mutex& mutex_;
};

}  // namespace mirrorcl::mirror
