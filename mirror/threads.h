// SPDX-License-Identifier: Apache-2.0
// The threads of this process, as /proc shows them: which there are, and what they wait for. Raw system calls only.
//
// Locking: service thread only, but for open() and close().
#pragma once

#include <linux/futex.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "base/raw_syscall.h"
#include "base/unique_fd.h"

namespace mirrorcl::mirror {

// The system call that a thread sleeps in.
struct BlockedCall {
  long number;
  std::array<std::uint64_t, 6> arguments;
};

// Parses what /proc/PID/task/TID/syscall says; false: the thread runs, or waits outside of a system call.
bool parse_blocked_call(const char* text, BlockedCall* call) noexcept;

class Threads {
 public:
  // Where /proc is not there, or denies it, there are no threads and nobody waits.
  void open() noexcept;
  // In the child of a fork: the descriptor shows the parent.
  void close() noexcept { directory_.reset(); }

  // The ids of as many as `ids` takes, ascending.
  std::span<std::uint32_t> list(std::span<std::uint32_t> ids) const noexcept;

  // Calls visit(const BlockedCall&) for each thread that sleeps in a system call.
  template <typename Visit>
  void for_each_blocked(Visit visit) const noexcept {
    for_each([&](std::uint32_t id) {
      BlockedCall call;
      if (blocked_call(id, &call)) visit(call);
    });
  }

  // Calls visit(std::uint32_t id) for each thread.
  template <typename Visit>
  void for_each(Visit visit) const noexcept {
    if (!rewind()) return;
    alignas(8) char entries[kEntriesSize];
    for (long size; (size = read_entries(entries)) > 0;) {
      for (long offset = 0; offset < size;) {
        std::uint32_t id = 0;
        offset += parse_entry(entries + offset, &id);
        if (id != 0) visit(id);
      }
    }
  }

 private:
  static constexpr long kEntriesSize = 2048;
  bool rewind() const noexcept;
  long read_entries(char* entries) const noexcept;
  // The entry's size; *id = 0: it is no thread.
  static long parse_entry(const char* entry, std::uint32_t* id) noexcept;
  bool blocked_call(std::uint32_t id, BlockedCall* call) const noexcept;

  UniqueFd directory_;
};

// Calls visit(address) for each futex that `call` waits for and that the kernel files under the memory behind it (not
// under its address alone, as private ones are). read(address, destination, size) reads the application's memory: 0, or
// -errno.
template <typename Read, typename Visit>
void for_each_shared_futex(const BlockedCall& call, Read read, Visit visit) noexcept {
  constexpr auto kCommand = static_cast<std::uint64_t>(FUTEX_CMD_MASK);
  const auto& a = call.arguments;
  if (call.number == SYS_restart_syscall) return visit(a[0]);  // a wait with a timeout, maybe
  if (call.number == SYS_futex && (a[1] & FUTEX_PRIVATE_FLAG) == 0) {
    visit(a[0]);
    if ((a[1] & kCommand) == FUTEX_WAIT_REQUEUE_PI) visit(a[4]);
  }
  // futex_wait(2) and futex_waitv(2) have numbers that headers may lack.
  constexpr long kWait = 455;
  constexpr long kWaitMany = 449;
  constexpr std::uint64_t kMostWaited = 128;
  struct Waited {
    std::uint64_t value;
    std::uint64_t address;
    std::uint32_t flags;
    std::uint32_t reserved;
  };
  if (call.number == kWait && (a[4] & FUTEX_PRIVATE_FLAG) == 0) visit(a[0]);
  for (std::uint64_t i = 0; call.number == kWaitMany && i < std::min(a[1], kMostWaited); ++i) {
    Waited waited{};
    if (read(a[0] + i * sizeof waited, &waited, sizeof waited) != 0) break;
    if ((waited.flags & FUTEX_PRIVATE_FLAG) == 0) visit(waited.address);
  }
}

}  // namespace mirrorcl::mirror
