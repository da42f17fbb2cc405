// SPDX-License-Identifier: Apache-2.0
// The order in which application threads take the mirror's locks (locking.h), asserted in builds that have assertions:
// a thread that holds a lock may only take one that comes after it.
#pragma once

#include <cassert>
#include <cstdint>
#include <mutex>

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

class OrderedLock {
 public:
  OrderedLock(std::mutex& mutex, LockOrder order) : scope_(order), lock_(mutex) {}

 private:
  OrderedScope scope_;
  std::scoped_lock<std::mutex> lock_;
};

}  // namespace mirrorcl::mirror
