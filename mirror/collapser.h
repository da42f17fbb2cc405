// SPDX-License-Identifier: Apache-2.0
// Blocks that come and go as a whole, in small pages: when nothing else happens, the kernel is asked to put one of them
// together into a huge page (MADV_COLLAPSE, Linux 6.1), which moves faster. Not where the application (MADV_NOHUGEPAGE,
// PR_SET_THP_DISABLE) or the administrator (transparent_hugepage/enabled: never) wants none.
//
// Locking: service thread only.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <vector>

namespace mirrorcl::mirror {

class Collapser {
 public:
  explicit Collapser(std::pmr::memory_resource* memory) : waiting_(memory) {}
  void open() { waiting_.reserve(kMostWaiting); }

  // The block at `base` has come home as a whole, in small pages, and not for the first time.
  void note(std::uint64_t base) noexcept;
  // When the next block may be taken, if nothing else has happened for a while (now_ns()); kNever: there is none.
  std::uint64_t next_ns() const noexcept;
  // The block that waits the longest; only when next_ns() has come.
  std::uint64_t take() noexcept;
  // The administrator wants no huge pages, which MADV_COLLAPSE does not ask.
  static bool is_forbidden() noexcept;
  // All of the block at `base` is the application's own memory. Its contents stay as they are, whatever comes of it.
  void collapse(std::uint64_t base) noexcept;

 private:
  static constexpr std::size_t kMostWaiting = 512;
  // Where the kernel has a huge page at hand this takes 0.4 ms, and 5 where a hypervisor must find the memory for it.
  // Between two it rests for 4 times what the last one took.
  static constexpr std::uint64_t kRests = 4;

  std::pmr::vector<std::uint64_t> waiting_;  // base addresses, in the order in which they came
  std::uint64_t rests_until_ns_ = 0;
};

}  // namespace mirrorcl::mirror
