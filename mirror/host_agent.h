// SPDX-License-Identifier: Apache-2.0
// The host agent: a second pinned thread that changes the application's mappings on behalf of the service thread. A
// change of a range that is registered with userfaultfd returns only after its event has been read, so the thread that
// reads events cannot make it itself; and unregistering first would let an application thread put a fresh zero page
// where its data should be.
//
// Locking: the members are called by the service thread only; one system call is with the agent at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/futex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "mirror/address_space.h"
#include "mirror/host_events.h"
#include "mirror/pinned_arena.h"

namespace mirrorcl::mirror {

class HostAgent {
 public:
  Result<void> start(PinnedArena& arena);
  void stop() noexcept;
  void close_in_child() noexcept {
    done_.reset();
    wait_channel_.reset();
  }

  // Each reads events until the agent is done, and returns what the system call did: 0 or -errno.
  //
  // Where something is expected of the target, no event is read that the agent's call does not wait for: a thread that
  // unmaps memory goes on only when that has been read, so neither it nor who waits for it has got the addresses again
  // when the call is made.

  // What must be mapped at the target of a move. The agent looks in the instruction before its call: the kernel has no
  // call that does both.
  enum class Expect : std::uint8_t {
    kAnything,
    kPrivate,  // anonymous memory that is registered with `host`
    kShared,   // a shared mapping that is
    kGrown,    // a mapping that is, beyond what the mirror registered
  };
  // What the target must still be part of, but for the mapping's extent; no space counts as anything.
  struct Unchanged {
    const AddressSpace* space = nullptr;
    MappingInfo mapping{};
  };
  // Moves the mapping at `from` over `to`, atomically replacing what is there. -EAGAIN: an event is on its way that may
  // concern it, or its protection has changed; -ENOENT: something else is mapped there; nothing has happened then, see
  // made_call().
  int move_mapping(Range from, std::uint64_t to, Expect expected, const Unchanged& unchanged, HostEvents& events,
                   const Userfaultfd& host) noexcept;
  // Takes the pages of `from`, if it lies in one mapping that is registered with `host`, to `to`, in one step: an empty
  // mapping, registered as before, is left. The whole mapping is not locked any more. -EAGAIN and -ENOENT as above;
  // otherwise what was mapped at `to` may be gone.
  int take_away(Range from, std::uint64_t to, HostEvents& events, const Userfaultfd& host) noexcept;
  // Whether the last call found what was expected, so that its system call was made.
  bool made_call() const noexcept { return made_call_; }
  // Drops the pages of `range`, locked ones too, if it lies in one mapping that is registered with `host`. -EAGAIN and
  // -ENOENT as above.
  int discard(Range range, HostEvents& events, const Userfaultfd& host) noexcept;
  // Sets the futex at `address`, in a page that is there, and wakes all who wait for it. Should the page vanish
  // meanwhile, or a write protection be left on it, that is answered as below.
  enum class FutexValue : std::uint8_t { kZero, kOwnerDied };
  int set_futex(std::uint64_t address, FutexValue value, HostEvents& events, const Userfaultfd& host) noexcept;
  // Wakes one who waits for the futex at `address`.
  int wake_futex(std::uint64_t address, HostEvents& events, const Userfaultfd& host) noexcept;
  // Gives the application its own writable copy of present pages that it shares with a forked child. Pages that vanish
  // meanwhile are replaced by zero pages of `host`; a write protection left on them is lifted.
  int make_exclusive(Range range, HostEvents& events, const Userfaultfd& host) noexcept;
  // Puts references to the pages of `range` into the pipe `write_end`: bytes, or -errno.
  long splice(Range range, int write_end, HostEvents& events) noexcept;

 private:
  struct SystemCall {
    long number;
    std::array<long, 6> arguments;
    Expect expected = Expect::kAnything;
    const Userfaultfd* host = nullptr;  // who knows what is expected
    Range target{0, 0};                 // where
    Unchanged unchanged{};
  };
  static int look(const SystemCall& wanted) noexcept;
  static int confirm(const SystemCall& wanted) noexcept;
  // `zero_missing`, if not empty: a fault of a thread (the agent's own) on a page in it is answered with a zero page of
  // `host`.
  long call(const SystemCall& wanted, HostEvents& events, const Userfaultfd* host = nullptr,
            Range zero_missing = {0, 0});
  void run() noexcept;
  bool can_tell_waits() noexcept;
  bool waits_for_reader() const noexcept;
  bool comes_to_wait() const noexcept;

  static constexpr std::uint32_t kIdle = 0;
  static constexpr std::uint32_t kPosted = 1;
  static constexpr std::uint32_t kStop = 2;

  PinnedThread thread_;
  FutexWord state_{kIdle};
  SystemCall wanted_{};
  long result_ = 0;
  bool made_call_ = false;
  UniqueFd done_;  // an eventfd, so that the service thread can wait for it and for the userfaultfd at once
  std::atomic<bool> ready_{false};
  UniqueFd wait_channel_;  // tells in which function of the kernel the agent sleeps
  enum class Waits : std::uint8_t { kUntried, kTold, kUnknown };
  Waits waits_ = Waits::kUntried;
};

}  // namespace mirrorcl::mirror
