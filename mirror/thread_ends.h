// SPDX-License-Identifier: Apache-2.0
// What the kernel does when a thread ends: it marks the robust locks that the thread held as left by their owner, and
// clears the thread's id in its control block. Neither waits for a page that is away, so the mirror does both where the
// kernel could not.
//
// Locking: service thread only, but for open() and close_in_child().
#pragma once

#include <cstdint>

#include "mirror/clock.h"
#include "mirror/host_agent.h"
#include "mirror/robust_lists.h"
#include "mirror/thread_blocks.h"
#include "mirror/threads.h"

namespace mirrorcl::mirror {

class Counters;
class Migrator;
enum class Outcome : std::uint8_t;

class ThreadEnds {
 public:
  // `pages` knows where memory is, and brings it home; it need not be complete yet.
  ThreadEnds(Migrator& pages, const Userfaultfd& host, const AddressSpace& space, HostEvents& events, HostAgent& agent,
             Counters& counters)
      : pages_(pages), host_(host), space_(space), events_(events), agent_(agent), counters_(counters) {}

  // Before the mirror's threads start.
  void open() {
    blocks_.open();
    threads_.open();
  }
  // In the child of a fork.
  void close_in_child() noexcept { threads_.close(); }

  const Threads& threads() const noexcept { return threads_; }
  // Those that have gone to devices.
  ThreadBlocks& blocks() noexcept { return blocks_; }
  // Memory has moved to a device, or has become coherent.
  void memory_moved() noexcept { moved_since_look_ = true; }

  // When to look the next time (now_ns()); kNever: not before something moves.
  std::uint64_t next_look_ns() const noexcept;
  // Does for threads that have ended what the kernel could not, because memory was away.
  void look() noexcept;

 private:
  void look_after_control_blocks() noexcept;
  void look_after_locks() noexcept;
  void look_after_waiters() noexcept;
  Outcome bring_home(Range page) noexcept;
  bool tell_end(std::uint64_t id_address, std::uint32_t id) noexcept;
  Outcome leave_lock(std::uint32_t owner, const RobustLists::Lock& lock) noexcept;

  Migrator& pages_;
  const Userfaultfd& host_;
  const AddressSpace& space_;
  HostEvents& events_;
  HostAgent& agent_;
  Counters& counters_;
  ThreadBlocks blocks_;
  Threads threads_;
  RobustLists robust_lists_;
  std::uint64_t looked_ns_ = 0;  // when the last look began
  std::uint64_t look_took_ns_ = 0;
  bool moved_since_look_ = false;
  std::uint64_t moved_ns_ = 0;       // something had moved when a look began last; 0: never yet
  bool lock_is_waited_for_ = false;  // a robust one
};

}  // namespace mirrorcl::mirror
