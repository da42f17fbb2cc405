// SPDX-License-Identifier: Apache-2.0
// Threads whose control blocks have gone to a device, or been copied to one. When a thread ends, the kernel clears its
// id there and wakes who waits for it in pthread_join; but for an ending thread it does not wait for a page that is
// away or must not be written, and leaves the id as it is. So the mirror does it in its place
// (ThreadEnds::look_after_control_blocks).
//
// Locking: service thread only, but for open().
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "mirror/device/operations.h"

namespace mirrorcl::mirror {

class ThreadBlocks {
 public:
  struct Thread {
    std::uint64_t id_address;  // of the thread's id, which is a futex
    std::uint32_t id;          // 0: the entry is free
    unsigned looks_at_home;    // how often the page was found at home since
  };

  // Finds out where libc puts control blocks and ids, with a thread of its own. Without such a place nothing is noted.
  // Before the mirror's threads start.
  void open();
  // Any thread: whether the page at `address` with the contents `page`, which is pinned, looks like one of them.
  bool is_one(std::uint64_t address, const void* page) const noexcept;
  // The page at `address` with the contents `page`, which is pinned, goes to a device, or is copied to one.
  void note(std::uint64_t address, const void* page) noexcept;
  // Whether the word at `address` is the id of a thread, in a control block. read(address, destination, size) reads the
  // application's memory: 0, or -errno.
  template <typename Read>
  bool is_id(std::uint64_t address, Read read) const noexcept {
    std::uint64_t words[3];
    const std::uint64_t block = address - id_offset_;
    return block_offset_ != kUnknown && block % sizeof words[0] == 0 && read(block, words, sizeof words) == 0 &&
           words[0] == block && words[2] == block;
  }
  // What is noted. An entry is freed by setting its id to 0.
  std::span<Thread> threads() noexcept { return {threads_.data(), threads_end_}; }
  bool any() const noexcept { return threads_end_ != 0; }
  // Free entries at the end are given up.
  void shrink() noexcept;
  // The thread `id` of this process has ended and is gone for the kernel too.
  static bool is_gone(std::uint32_t id) noexcept;

 private:
  static constexpr std::uint32_t kUnknown = ~std::uint32_t{0};
  std::uint32_t block_offset_ = kUnknown;  // of a control block in its page, in stacks that libc has allocated
  std::uint32_t id_offset_ = 0;            // of the id in the control block
  std::size_t threads_end_ = 0;
  std::array<Thread, 256> threads_{};  // more at a time are not looked after
};

}  // namespace mirrorcl::mirror
