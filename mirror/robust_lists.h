// SPDX-License-Identifier: Apache-2.0
// The robust lists of this process's threads (set_robust_list(2)): the locks that the kernel, when a thread ends, marks
// as left by their owner. For an ending thread it does not wait for a page that is away, and gives up there. So the
// mirror knows where each thread's list begins and what was in it, and does it in the kernel's place
// (ThreadEnds::look_after_locks).
//
// Locking: service thread only.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

namespace mirrorcl::mirror {

class RobustLists {
 public:
  static constexpr std::size_t kMaxThreads = 256;  // more at a time are not looked after

  struct Lock {
    std::uint64_t word;
    bool inherits;  // a lock with priority inheritance, of which the kernel knows who waits
    bool pending;   // the thread was just taking it or giving it back
  };

  // Any thread's list, as ended threads' are given out.
  struct Thread {
    std::uint32_t id = 0;
    unsigned known = 0;      // locks that it held when it was last looked at, as far as they are remembered
    std::uint64_t head = 0;  // of its list; 0: it has none
    std::array<std::uint64_t, 8> words{};  // bit 0: the lock inherits
  };

  // Looks at all threads of this process, whose ascending `ids` these are. read(address, destination, size) reads the
  // application's memory wherever it is: 0, or -errno. ended(const Thread&): the thread has ended, and the kernel has
  // done what it could; false: call it again the next time.
  template <typename Read, typename Ended>
  void look(std::span<const std::uint32_t> ids, Read read, Ended ended) noexcept;

  // Calls visit(Lock) for each lock that `thread` has in its list, then for those that it had. Which of them it owns,
  // their words say. Ends when visit says false, and says so.
  template <typename Read, typename Visit>
  static bool for_each_lock(const Thread& thread, Read read, Visit visit) noexcept;

  // A thread holds locks, or has left some.
  bool any_held() const noexcept { return any_held_; }
  std::span<std::uint32_t> ids() noexcept { return ids_; }  // for the caller's use

 private:
  static constexpr std::uint64_t kInherits = 1;
  static constexpr unsigned kLongest = 2048;  // the kernel goes no further either (ROBUST_LIST_LIMIT)
  struct Head {
    std::uint64_t next;
    std::uint64_t word_offset;
    std::uint64_t pending;
  };

  // The head of the thread's list; 0: it has none, or has ended.
  static std::uint64_t head_of(std::uint32_t id) noexcept;
  template <typename Read, typename Visit>
  static bool walk(std::uint64_t head, Read read, Visit visit) noexcept;
  template <typename Read>
  void remember(Thread& thread, Read read) noexcept;
  template <typename Ended>
  void end(const Thread& thread, Ended ended) noexcept;
  void keep(const Thread& thread) noexcept {
    if (fresh_count_ < kMaxThreads) fresh_[fresh_count_++] = thread;
  }

  std::size_t count_ = 0;
  std::size_t fresh_count_ = 0;
  bool any_held_ = false;
  std::array<Thread, kMaxThreads> threads_{};  // by id, ascending
  std::array<Thread, kMaxThreads> fresh_{};
  std::array<std::uint32_t, kMaxThreads> ids_{};
};

template <typename Read, typename Visit>
bool RobustLists::walk(std::uint64_t head, Read read, Visit visit) noexcept {
  Head list{};
  if (read(head, &list, sizeof list) != 0) return true;
  std::uint64_t entry = list.next;
  for (unsigned i = 0; i < kLongest && entry != 0 && (entry & ~kInherits) != head; ++i) {
    const std::uint64_t address = entry & ~kInherits;
    std::uint64_t next = 0;
    const bool readable = read(address, &next, sizeof next) == 0;
    if (address != (list.pending & ~kInherits) &&
        !visit(Lock{address + list.word_offset, (entry & kInherits) != 0, false})) {
      return false;
    }
    if (!readable) break;
    entry = next;
  }
  if (list.pending == 0) return true;
  return visit(Lock{(list.pending & ~kInherits) + list.word_offset, (list.pending & kInherits) != 0, true});
}

template <typename Read, typename Visit>
bool RobustLists::for_each_lock(const Thread& thread, Read read, Visit visit) noexcept {
  if (!walk(thread.head, read, visit)) return false;
  // Who has taken over a lock that the kernel gave away has it in a list of his own, where the walk has gone astray.
  for (unsigned i = 0; i < thread.known; ++i) {
    const std::uint64_t word = thread.words[i];
    if (!visit(Lock{word & ~kInherits, (word & kInherits) != 0, false})) return false;
  }
  return true;
}

template <typename Read>
void RobustLists::remember(Thread& thread, Read read) noexcept {
  thread.known = 0;
  walk(thread.head, read, [&](const Lock& lock) {
    thread.words[thread.known++] = lock.word | (lock.inherits ? kInherits : 0);
    return thread.known < thread.words.size();
  });
  any_held_ = any_held_ || thread.known != 0;
}

template <typename Ended>
void RobustLists::end(const Thread& thread, Ended ended) noexcept {
  if (thread.head == 0 || ended(thread)) return;
  any_held_ = true;
  keep(thread);
}

template <typename Read, typename Ended>
void RobustLists::look(std::span<const std::uint32_t> ids, Read read, Ended ended) noexcept {
  any_held_ = false;
  fresh_count_ = 0;
  std::size_t old = 0;
  for (const std::uint32_t id : ids) {
    while (old < count_ && threads_[old].id < id) end(threads_[old++], ended);
    Thread thread{.id = id};
    if (old < count_ && threads_[old].id == id) thread = threads_[old++];
    const std::uint64_t head = head_of(id);
    if (head == 0) {
      end(thread, ended);
      continue;
    }
    thread.head = head;
    remember(thread, read);
    keep(thread);
  }
  while (old < count_) end(threads_[old++], ended);
  std::copy_n(fresh_.begin(), fresh_count_, threads_.begin());
  count_ = fresh_count_;
}

}  // namespace mirrorcl::mirror
