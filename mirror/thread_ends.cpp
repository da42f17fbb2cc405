// SPDX-License-Identifier: Apache-2.0
#include "mirror/thread_ends.h"

#include <linux/futex.h>
#include <pthread.h>

#include <algorithm>
#include <cstddef>

#include "mirror/migrator.h"

namespace mirrorcl::mirror {
namespace {

constexpr std::uint64_t kLookEveryNs = 50'000'000;
// After something has moved, so that most threads are known before they end. Looks shall take no more than a hundredth
// of the service thread's time.
constexpr std::uint64_t kLookSoonNs = 10'000'000;
constexpr std::uint64_t kLookShare = 100;
// Who comes to wait for a lock, whose owner nobody knew, does so at any time afterwards. At most so much later he is
// found.
constexpr std::uint64_t kLookRarelyNs = 10'000'000'000;

}  // namespace

std::uint64_t ThreadEnds::next_look_ns() const noexcept {
  if (moved_since_look_) return looked_ns_ + std::clamp(look_took_ns_ * kLookShare, kLookSoonNs, kLookEveryNs);
  const bool due = blocks_.any() || robust_lists_.any_held() || lock_is_waited_for_;
  if (due) return looked_ns_ + kLookEveryNs;
  // Less and less often, but never not at all.
  return moved_ns_ == 0 ? kNever : looked_ns_ + std::clamp(looked_ns_ - moved_ns_, kLookSoonNs, kLookRarelyNs);
}

void ThreadEnds::look() noexcept {
  looked_ns_ = now_ns();
  if (moved_since_look_) moved_ns_ = looked_ns_;
  pages_.begin_request();
  // Locks first: whoever joins the thread may use its stack, with the list's head, again.
  look_after_locks();
  look_after_waiters();
  look_after_control_blocks();
  look_took_ns_ = now_ns() - looked_ns_;
}

Outcome ThreadEnds::bring_home(Range page) noexcept {
  return pages_.bring_home(page, kAllDevices, Migrator::Tracking::kKeep);
}

// Entries whose page has come home in time are dropped after a few looks: an ending thread may be just before its
// clearing.
void ThreadEnds::look_after_control_blocks() noexcept {
  constexpr unsigned kLooksAtHome = 3;
  for (ThreadBlocks::Thread& thread : blocks_.threads()) {
    if (thread.id == 0) continue;
    const Range page{page_down(thread.id_address), kPageSize};
    const bool home = pages_.state(page.start) == PageState::kHost;
    if (!ThreadBlocks::is_gone(thread.id)) {
      thread.looks_at_home = home ? thread.looks_at_home + 1 : 0;
      if (thread.looks_at_home > kLooksAtHome) thread.id = 0;
      continue;
    }
    if (tell_end(thread.id_address, thread.id)) thread.id = 0;
  }
  blocks_.shrink();
}

// The thread whose id is at `id_address` has ended: who waits for that is woken. `id` 0: it has been cleared. False:
// not yet; the next time.
bool ThreadEnds::tell_end(std::uint64_t id_address, std::uint32_t id) noexcept {
  const Range page{page_down(id_address), kPageSize};
  if (pages_.state(page.start) != PageState::kHost && bring_home(page) == Outcome::kAgain) return false;
  if (events_.has_events()) return false;
  std::uint32_t now = 0;
  // Who has reused or unmapped the stack has another id there, or nothing.
  if (space_.read(id_address, &now, sizeof now) != 0 || now != id) return true;
  if (id == 0) {
    agent_.wake_futex(id_address, events_, host_);
  } else {
    agent_.set_futex(id_address, HostAgent::FutexValue::kZero, events_, host_);
  }
  return true;
}

void ThreadEnds::look_after_locks() noexcept {
  const auto read = [this](std::uint64_t address, void* destination, std::uint64_t size) {
    return pages_.peek(address, destination, size);
  };
  const auto ended = [&](const RobustLists::Thread& thread) {
    return RobustLists::for_each_lock(
        thread, read, [&](const RobustLists::Lock& lock) { return leave_lock(thread.id, lock) != Outcome::kAgain; });
  };
  moved_since_look_ = false;
  robust_lists_.look(threads_.list(robust_lists_.ids()), read, ended);
}

// A thread may have begun and ended between two looks. Who waits for its lock shows where that is, if it is one of
// libc's robust mutexes; and who joins it, where its id is. That may have been cleared: if the page went away just
// then, the kernel has woken nobody.
void ThreadEnds::look_after_waiters() noexcept {
  struct Mutex {
    std::uint32_t word;
    std::uint32_t count;
    std::uint32_t owner;
    std::uint32_t users;
    std::uint32_t kind;
  };
  static_assert(offsetof(pthread_mutex_t, __data.__owner) == offsetof(Mutex, owner) &&
                offsetof(pthread_mutex_t, __data.__kind) == offsetof(Mutex, kind));
  constexpr std::uint32_t kRobust = 0x10;
  constexpr std::uint32_t kInherits = 0x20;
  lock_is_waited_for_ = false;
  const auto read = [this](std::uint64_t address, void* destination, std::uint64_t size) {
    return pages_.peek(address, destination, size);
  };
  threads_.for_each_blocked([&](const BlockedCall& call) {
    for_each_shared_futex(call, read, [&](std::uint64_t address) {
      if (std::uint32_t id = 0; blocks_.is_id(address, read) && read(address, &id, sizeof id) == 0) {
        if (id == 0 || ThreadBlocks::is_gone(id)) (void)tell_end(address, id);
        return;
      }
      Mutex mutex{};
      if (pages_.peek(address, &mutex, sizeof mutex) != 0) return;
      const std::uint32_t owner = mutex.word & FUTEX_TID_MASK;
      if (owner == 0 || mutex.owner != owner || (mutex.kind & kRobust) == 0) return;
      lock_is_waited_for_ = true;
      if (ThreadBlocks::is_gone(owner)) leave_lock(owner, {address, (mutex.kind & kInherits) != 0, false});
    });
  });
}

// The kernel's handle_futex_death(), but that all who wait are woken, not one: so none needs to be remembered in the
// word. Whoever does not get the lock says there that he waits again.
Outcome ThreadEnds::leave_lock(std::uint32_t owner, const RobustLists::Lock& lock) noexcept {
  std::uint32_t value = 0;
  if (lock.word % sizeof value != 0 || pages_.peek(lock.word, &value, sizeof value) != 0) return Outcome::kDone;
  const bool given_back = lock.pending && !lock.inherits && (value & FUTEX_TID_MASK) == 0;
  // The kernel gives a lock that inherits to who waits for it.
  const bool kernels = lock.inherits && (value & FUTEX_WAITERS) != 0;
  if (!given_back && ((value & FUTEX_TID_MASK) != owner || kernels)) return Outcome::kDone;
  const Range page{page_down(lock.word), kPageSize};
  const PageState state = pages_.state(page.start);
  const bool home = state != PageState::kDevice && state != PageState::kDuplicated;
  if (!home && bring_home(page) == Outcome::kAgain) return Outcome::kAgain;
  if (events_.has_events()) return Outcome::kAgain;
  std::uint32_t now = 0;
  if (pages_.peek(lock.word, &now, sizeof now) != 0 || (now & FUTEX_TID_MASK) != (value & FUTEX_TID_MASK))
    return Outcome::kDone;
  if (given_back) {
    agent_.wake_futex(lock.word, events_, host_);
  } else {
    counters_.add(&Statistics::locks_left);  // before, so that whoever gets the lock sees it
    agent_.set_futex(lock.word, HostAgent::FutexValue::kOwnerDied, events_, host_);
  }
  return Outcome::kDone;
}

}  // namespace mirrorcl::mirror
