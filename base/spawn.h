// SPDX-License-Identifier: Apache-2.0
// Starts the driver's own processes (device process, compiler service) so that the application cannot notice them: no
// SIGCHLD, nothing for its wait() to return, no descriptor of its own inherited by them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mirrorcl {

struct SpawnedProcess {
  pid_t pid = -1;
  UniqueFd pidfd;  // readable once the process has ended
};

// Runs `path` with `arguments` (the first one is its name) as an orphan. fds[i] becomes its descriptor i (-1:
// /dev/null); every other descriptor is closed in it, its signals are unblocked and at their defaults. It is a child of
// init, or of the nearest subreaper, from the start, so that nobody waits for it here. Async-signals of the caller are
// held off meanwhile.
//
// How: an intermediate child shares the caller's memory and descriptors (CLONE_VM | CLONE_FILES, so that no page table
// is copied however large the application is) and has no exit signal; it starts the process and exits, and is reaped
// here.
//
// Errors: kSystem, with the call that failed; a missing file is found at exec.
Result<SpawnedProcess> spawn_detached(const std::string& path, const std::vector<std::string>& arguments,
                                      std::span<const int> fds);

// A child that has done its work and ends: what it had goes, which may take the kernel some milliseconds more.
class EndingChild {
 public:
  EndingChild() = default;
  explicit EndingChild(UniqueFd pidfd) noexcept : pidfd_(std::move(pidfd)) {}
  EndingChild(EndingChild&&) noexcept = default;
  EndingChild& operator=(EndingChild&& other) noexcept {
    std::swap(pidfd_, other.pidfd_);
    return *this;
  }
  // Waits until no trace of it is left.
  ~EndingChild();

 private:
  UniqueFd pidfd_;
};

// Runs `function(argument)` in a child that shares the caller's memory and nothing else, while the caller waits: for
// what the caller may not do to itself. It has no exit signal, and its descriptors are copies. Async-signals of the
// caller are held off meanwhile. What is said in base/spawn_children.h of a child's code holds for the function. Error:
// kSystem, there can be no child.
Result<EndingChild> run_in_child(int (*function)(void*), void* argument);

// A function that runs in the memory of the process that starts it, and never returns.
using SharingEntry = void (*)(std::uint64_t argument);

// Starts an orphan as spawn_detached does, which however runs no program of its own but `entry(argument)`, in the
// caller's memory and with a table of descriptors, signal handlers (all at their defaults), limits and credentials of
// its own: faults of either process are its own affair. All signals of the application are blocked in it. It lives
// until it exits, also beyond the caller, whose memory it then keeps.
//
// `entry` begins on the stack below `stack_top` and with the thread-local storage of the calling thread, which it must
// leave alone, and so everything of libc; the stack is its for good. Errors: kSystem, with the call that failed.
Result<SpawnedProcess> spawn_sharing_memory(SharingEntry entry, std::uint64_t argument, void* stack_top,
                                            std::span<const int> fds);

// Why the process of `pidfd` has ended: "killed by SIGSEGV", "exited with status 3", or "ended" where nothing tells
// (reaped by init before this call, Linux before 6.15). Waits up to `timeout_ms` for its end.
std::string describe_exit(int pidfd, int timeout_ms);

}  // namespace mirrorcl
