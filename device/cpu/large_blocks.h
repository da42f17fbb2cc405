// SPDX-License-Identifier: Apache-2.0
// Which blocks of device memory, 2 MiB each, lie in one huge page, and which of its pages hold what anybody may see.
// A page of a huge page cannot be given back alone without splitting it, so what has left such a block stays behind
// there, unseen, until the last page leaves.
//
// Also: of which blocks D may have page tables of 4 KiB pages. Where there is one, the kernel maps no huge page.
//
// Thread safety: find() and the members of Block from any thread, for disjoint words of `live`; the others by one
// thread at a time, while nobody else has a Block.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "mirror/page_mask.h"

namespace mirrorcl::device {

class LargeBlocks {
 public:
  static constexpr std::uint64_t kSize = mirror::kBlockSize;

  struct Block {
    static constexpr unsigned kWords = mirror::kBlockPages / 64;
    std::atomic<std::uint64_t> base;  // address; 0: no block
    std::array<std::atomic<std::uint64_t>, kWords> live;
    std::atomic<unsigned> live_count;
    std::atomic<bool> open;  // D's accesses reach it without us
    std::atomic<bool> kept;  // nothing in it is live

    bool is_live(unsigned page) const noexcept;
    void set_live(mirror::PageRun run) noexcept;
    // True: these were the last ones.
    bool clear_live(mirror::PageRun run) noexcept;
    // The longest run from `page` on, within `end`, whose pages are all as the first one; its count is 0 at the end.
    mirror::PageRun run_from(unsigned page, unsigned end) const noexcept;
  };

  // `memory`: kBytes of zeros that never migrate.
  explicit LargeBlocks(void* memory) noexcept : tables_(static_cast<Tables*>(memory)) {}

  bool none() const noexcept { return count_.load(std::memory_order_relaxed) == 0; }
  // The block around `address`; null: it is none of these.
  Block* find(std::uint64_t address) noexcept;
  // A new one, without live pages; null: no room for it.
  Block* add(std::uint64_t address) noexcept;
  // Any thread that has made its last page not live.
  void remove(Block& block) noexcept;

  // Any thread.
  bool has_table(std::uint64_t address) const noexcept;
  void note_table(std::uint64_t address, bool has) noexcept;

  // Blocks that are kept, with no live page. Any thread. False: there are too many. `anyway`: also beyond the limit.
  bool keep(Block& block, bool anyway = false) noexcept;
  // It is kept no longer, if it was.
  void use(Block& block) noexcept;
  std::uint64_t kept_bytes() const noexcept { return kept_count_.load(std::memory_order_relaxed) * kSize; }
  void limit_kept(std::uint64_t bytes) noexcept { most_kept_ = std::min<std::uint64_t>(bytes / kSize, kMostKept); }
  // Calls visit(Block&) for each that is kept.
  template <typename Visit>
  void for_each_kept(Visit visit) noexcept {
    for (const std::atomic<Block*>& one : tables_->kept) {
      if (Block* block = one.load(std::memory_order_relaxed); block != nullptr) visit(*block);
    }
  }

 private:
  static constexpr std::size_t kSets = 4096;  // a power of two: neighbours lie in different ones
  static constexpr std::size_t kWays = 4;
  static constexpr std::size_t kMostKept = 128;
  static constexpr std::size_t kAllBlocks = std::size_t{1} << (47 - 21);  // of the address space
  struct Tables {
    std::array<std::array<Block, kWays>, kSets> sets;
    std::array<std::atomic<Block*>, kMostKept> kept;
    std::array<std::atomic<std::uint64_t>, kAllBlocks / 64> has_table;
  };

 public:
  static constexpr std::size_t kBytes = sizeof(Tables);

 private:
  Tables* tables_;
  std::atomic<std::uint64_t> count_{0};
  std::atomic<std::uint64_t> kept_count_{0};
  std::uint64_t most_kept_ = kMostKept;
};

}  // namespace mirrorcl::device
