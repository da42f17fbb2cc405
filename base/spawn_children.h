// SPDX-License-Identifier: Apache-2.0
// What spawn.cpp's children do between clone() and the new process: in the caller's memory, on stacks of their own,
// with the caller's thread-local storage, and with raw system calls only, because libc's errno and locks are the
// caller's. No sanitizer may instrument it: its runtime would take a child for the caller's thread.
#pragma once

#include <cstdint>

#include "base/futex.h"
#include "base/spawn.h"

namespace mirrorcl {

// What the two children read and write while the caller is suspended (CLONE_VFORK).
struct SpawnContext {
  // A program, or a function in the caller's memory.
  const char* path = nullptr;
  char* const* argv = nullptr;
  char* const* environment = nullptr;
  SharingEntry entry = nullptr;
  std::uint64_t entry_argument = 0;

  const int* fds;
  int fd_count;
  char* process_stack;   // top
  FutexWord entered{0};  // not zero: the process is about to call `entry`, and has no further use for this
  int pid = -1;
  int pidfd = -1;
  int error = 0;
  const char* failed_call = nullptr;
};

// The first child: starts the process of a SpawnContext and exits.
int run_spawn_intermediate(void* context);

// clone() of libc under the name that no sanitizer knows. ThreadSanitizer's own takes every child for that of a fork:
// in memory that is shared it would stop looking at the caller's locks from then on.
extern "C" int __clone(int (*function)(void*), void* stack, int flags, void* argument, ...);

}  // namespace mirrorcl
