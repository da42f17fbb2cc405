// SPDX-License-Identifier: Apache-2.0
#include "mirror/block_table.h"

#include <new>

namespace mirrorcl::mirror {

Block* BlockTable::find(std::uint64_t address) const {
  std::uint64_t index = address / kBlockSize;
  if (index >= kLeafCount * kLeafSize) return nullptr;
  Leaf* leaf = leaves_[index / kLeafSize];
  return leaf == nullptr ? nullptr : leaf->blocks[index % kLeafSize];
}

Block* BlockTable::next(std::uint64_t address) const {
  for (std::uint64_t index = address / kBlockSize; index < kLeafCount * kLeafSize;) {
    const Leaf* leaf = leaves_[index / kLeafSize];
    if (leaf == nullptr || leaf->used == 0) {
      index = (index / kLeafSize + 1) * kLeafSize;
      continue;
    }
    if (Block* block = leaf->blocks[index % kLeafSize]) return block;
    ++index;
  }
  return nullptr;
}

Block& BlockTable::find_or_create(std::uint64_t address) {
  std::uint64_t index = address / kBlockSize;
  Leaf*& leaf = leaves_[index / kLeafSize];
  if (leaf == nullptr) leaf = new (memory_->allocate(sizeof(Leaf), alignof(Leaf))) Leaf;
  Block*& block = leaf->blocks[index % kLeafSize];
  if (block == nullptr) {
    block = new (memory_->allocate(sizeof(Block), alignof(Block))) Block(block_down(address));
    if (live_ != nullptr) block->shown = live_->list_block(block->base());
    ++leaf->used;
    ++size_;
  }
  return *block;
}

void BlockTable::remove_if_empty(Block& block) {
  if (!block.empty()) return;
  std::uint64_t index = block.base() / kBlockSize;
  Leaf* leaf = leaves_[index / kLeafSize];
  leaf->blocks[index % kLeafSize] = nullptr;
  if (live_ != nullptr) live_->unlist_block(block.shown);
  --leaf->used;
  --size_;
  if (block.returns != nullptr) memory_->deallocate(block.returns, sizeof(ReturnCounter), alignof(ReturnCounter));
  memory_->deallocate(&block, sizeof(Block), alignof(Block));
}

ReturnCounter& BlockTable::returns_of(Block& block) {
  if (block.returns == nullptr) {
    block.returns = new (memory_->allocate(sizeof(ReturnCounter), alignof(ReturnCounter))) ReturnCounter;
  }
  return *block.returns;
}

}  // namespace mirrorcl::mirror
