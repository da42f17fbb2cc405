// SPDX-License-Identifier: Apache-2.0
#include "mirror/copy_threads.h"

#include <sched.h>

#include <algorithm>
#include <climits>

#include "base/log.h"

namespace mirrorcl::mirror {
namespace {

// How long the last part of some 20 us is waited for before sleeping, which costs as much: some 40 us.
constexpr unsigned kSpins = 1000;

}  // namespace

void CopyThreads::start(PinnedArena& arena) noexcept {
  cpu_set_t cpus;
  const int available = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
  const unsigned wanted = std::min(static_cast<unsigned>(std::max(available - 1, 0)), kMaxThreads);
  while (count_ < wanted) {
    auto started = threads_[count_].start(
        arena, "mirror-copy", [](void* self) { static_cast<CopyThreads*>(self)->serve(); }, this);
    if (!started) {
      log_warning("bulk copies use {} of {} threads: {}", count_ + 1, wanted + 1, started.error().message);
      break;
    }
    ++count_;
  }
}

void CopyThreads::stop() noexcept {
  stop_.store(true, std::memory_order_seq_cst);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(&generation_, INT_MAX);
  for (unsigned i = 0; i < count_; ++i) threads_[i].join();
  count_ = 0;
}

void CopyThreads::run(unsigned parts, void (*body)(void*, unsigned), void* context) noexcept {
  if (count_ == 0 || parts < 2) {
    for (unsigned part = 0; part < parts; ++part) body(context, part);
    return;
  }
  body_ = body;
  context_ = context;
  parts_.store(parts, std::memory_order_relaxed);
  finished_.store(0, std::memory_order_relaxed);
  const std::uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  claim_.store(std::uint64_t{generation} << 32, std::memory_order_release);
  generation_.store(generation, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst) != 0) futex_wake(&generation_, INT_MAX);
  work(generation);
  for (unsigned spins = 0; spins < kSpins && finished_.load(std::memory_order_acquire) != parts; ++spins) cpu_relax();
  for (std::uint32_t done; (done = finished_.load(std::memory_order_acquire)) != parts;) {
    futex_wait(&finished_, done);
  }
  // A thread that comes late must find nothing to claim while the next work is written.
  claim_.store(std::uint64_t{generation} << 32 | UINT32_MAX, std::memory_order_relaxed);
}

void CopyThreads::work(std::uint32_t generation) noexcept {
  std::uint64_t word = claim_.load(std::memory_order_acquire);
  for (;;) {
    const auto part = static_cast<std::uint32_t>(word);
    if (word >> 32 != generation || part >= parts_.load(std::memory_order_relaxed)) return;
    if (!claim_.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    const std::uint32_t all = parts_.load(std::memory_order_relaxed);
    body_(context_, part);
    if (finished_.fetch_add(1, std::memory_order_acq_rel) + 1 == all) futex_wake(&finished_, 1);
    word = claim_.load(std::memory_order_acquire);
  }
}

void CopyThreads::serve() noexcept {
  std::uint32_t seen = 0;
  while (!stop_.load(std::memory_order_acquire)) {
    const std::uint32_t generation = generation_.load(std::memory_order_seq_cst);
    if (generation == seen) {
      sleeping_.fetch_add(1, std::memory_order_seq_cst);
      futex_wait(&generation_, seen);
      sleeping_.fetch_sub(1, std::memory_order_seq_cst);
      continue;
    }
    seen = generation;
    work(generation);
  }
}

}  // namespace mirrorcl::mirror
