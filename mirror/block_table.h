// SPDX-License-Identifier: Apache-2.0
// All blocks, found by address: two levels of arrays over 47 bits of address space, so that a lookup is two loads and a
// walk over a huge range skips what does not exist.
//
// Locking: service thread only.
#pragma once

#include <array>
#include <cstdint>
#include <memory_resource>

#include "mirror/block.h"
#include "mirror/live.h"

namespace mirrorcl::mirror {

class BlockTable {
 public:
  // `live`: where the blocks are shown to other processes; null: nowhere.
  explicit BlockTable(std::pmr::memory_resource* memory, Live* live = nullptr) : memory_(memory), live_(live) {}
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  Block* find(std::uint64_t address) const;
  Block& find_or_create(std::uint64_t address);
  // Destroys `block` if nothing is known about it.
  void remove_if_empty(Block& block);
  ReturnCounter& returns_of(Block& block);
  std::size_t size() const { return size_; }
  // The first block that starts at or after `address`; null if there is none.
  Block* next(std::uint64_t address) const;

  // Calls visit(Block&) for each block that overlaps `range`, in ascending order. The visitor may remove the block it
  // is given.
  template <typename Visitor>
  void for_each(Range range, Visitor visit) {
    if (range.size == 0) return;
    std::uint64_t first = range.start / kBlockSize;
    std::uint64_t last = std::min((range.end() - 1) / kBlockSize, kLeafCount * kLeafSize - 1);
    for (std::uint64_t index = first; index <= last;) {
      Leaf* leaf = leaves_[index / kLeafSize];
      if (leaf == nullptr || leaf->used == 0) {
        index = (index / kLeafSize + 1) * kLeafSize;
        continue;
      }
      if (Block* block = leaf->blocks[index % kLeafSize]) visit(*block);
      ++index;
    }
  }

 private:
  static constexpr std::uint64_t kLeafSize = 8192;
  static constexpr std::uint64_t kLeafCount = (std::uint64_t{1} << 47) / kBlockSize / kLeafSize;
  struct Leaf {
    std::array<Block*, kLeafSize> blocks{};
    std::uint64_t used = 0;
  };

  std::pmr::memory_resource* memory_;
  Live* live_;
  std::array<Leaf*, kLeafCount> leaves_{};
  std::size_t size_ = 0;
};

}  // namespace mirrorcl::mirror
