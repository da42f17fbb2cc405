// SPDX-License-Identifier: Apache-2.0
// Pinned threads that help the service thread with bulk copies. Allocating the pages that a copy fills is most of its
// cost, and the kernel does that as fast as there are CPUs.
//
// Usage: start() once; run() splits a piece of work into parts and returns when all are done. The caller works too, so
// without threads (one CPU, or none could be started) it does everything.
//
// Locking: run() from the service thread only.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/futex.h"
#include "base/result.h"
#include "mirror/pinned_arena.h"

namespace mirrorcl::mirror {

class CopyThreads {
 public:
  static constexpr unsigned kMaxThreads = 3;

  // Starts up to kMaxThreads threads, fewer than there are CPUs; what cannot be started is done without.
  void start(PinnedArena& arena) noexcept;
  void stop() noexcept;

  // Calls body(context, i) once for each i < parts, here and in the threads, in no particular order. Calls must not
  // depend on each other, and obey the rules of pinned threads.
  void run(unsigned parts, void (*body)(void* context, unsigned part), void* context) noexcept;

  template <typename Body>
  void run(unsigned parts, Body& body) noexcept {
    run(
        parts, [](void* context, unsigned part) { (*static_cast<Body*>(context))(part); }, &body);
  }

 private:
  void serve() noexcept;
  // Takes parts of the work numbered `generation` until none is left.
  void work(std::uint32_t generation) noexcept;

  // The work at hand. Written before its generation is published in claim_; whoever holds an unfinished part may read
  // it.
  void (*body_)(void*, unsigned) = nullptr;
  void* context_ = nullptr;
  std::atomic<std::uint32_t> parts_{0};
  std::atomic<std::uint64_t> claim_{0};  // generation << 32 | next part
  FutexWord finished_{0};                // parts

  FutexWord generation_{0};  // what the threads sleep on
  std::atomic<std::uint32_t> sleeping_{0};
  std::atomic<bool> stop_{false};
  unsigned count_ = 0;
  std::array<PinnedThread, kMaxThreads> threads_;
};

}  // namespace mirrorcl::mirror
