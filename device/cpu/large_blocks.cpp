// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/large_blocks.h"

#include <algorithm>
#include <bit>

namespace mirrorcl::device {

using mirror::PageRun;

namespace {

// Calls visit(word, bits) for the words of a mask that `run` touches.
template <typename Visit>
void for_words(PageRun run, Visit visit) noexcept {
  for (unsigned page = run.first; page < run.end();) {
    const unsigned count = std::min(64 - page % 64, run.end() - page);
    visit(page / 64, (count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1) << page % 64);
    page += count;
  }
}

unsigned bits_in(std::uint64_t word) noexcept {
  return static_cast<unsigned>(std::popcount(word));
}

}  // namespace

bool LargeBlocks::Block::is_live(unsigned page) const noexcept {
  return (live[page / 64].load(std::memory_order_relaxed) >> page % 64 & 1) != 0;
}

void LargeBlocks::Block::set_live(PageRun run) noexcept {
  for_words(run, [this](unsigned word, std::uint64_t bits) {
    live_count.fetch_add(bits_in(bits & ~live[word].fetch_or(bits)));
  });
}

bool LargeBlocks::Block::clear_live(PageRun run) noexcept {
  unsigned cleared = 0;
  for_words(run, [&](unsigned word, std::uint64_t bits) { cleared += bits_in(bits & live[word].fetch_and(~bits)); });
  return cleared != 0 && live_count.fetch_sub(cleared) == cleared;
}

PageRun LargeBlocks::Block::run_from(unsigned page, unsigned end) const noexcept {
  PageRun run{page, 0};
  while (run.end() < end && is_live(run.end()) == is_live(page)) ++run.count;
  return run;
}

LargeBlocks::Block* LargeBlocks::find(std::uint64_t address) noexcept {
  if (none()) return nullptr;
  const std::uint64_t base = mirror::block_down(address);
  for (Block& block : tables_->sets[base / kSize % kSets]) {
    if (block.base.load(std::memory_order_relaxed) == base) return &block;
  }
  return nullptr;
}

LargeBlocks::Block* LargeBlocks::add(std::uint64_t address) noexcept {
  const std::uint64_t base = mirror::block_down(address);
  for (Block& block : tables_->sets[base / kSize % kSets]) {
    if (block.base.load(std::memory_order_relaxed) != 0) continue;
    block.base.store(base, std::memory_order_relaxed);
    count_.fetch_add(1, std::memory_order_relaxed);
    return &block;
  }
  return nullptr;
}

void LargeBlocks::remove(Block& block) noexcept {
  use(block);
  if (block.base.exchange(0, std::memory_order_relaxed) != 0) count_.fetch_sub(1, std::memory_order_relaxed);
}

bool LargeBlocks::has_table(std::uint64_t address) const noexcept {
  const std::uint64_t index = address / kSize;
  return (tables_->has_table[index / 64].load(std::memory_order_relaxed) >> index % 64 & 1) != 0;
}

void LargeBlocks::note_table(std::uint64_t address, bool has) noexcept {
  if (has_table(address) == has) return;
  const std::uint64_t index = address / kSize;
  const std::uint64_t bit = std::uint64_t{1} << index % 64;
  if (has) {
    tables_->has_table[index / 64].fetch_or(bit, std::memory_order_relaxed);
  } else {
    tables_->has_table[index / 64].fetch_and(~bit, std::memory_order_relaxed);
  }
}

bool LargeBlocks::keep(Block& block, bool anyway) noexcept {
  if (kept_count_.fetch_add(1) < (anyway ? kMostKept : most_kept_)) {
    for (std::atomic<Block*>& one : tables_->kept) {
      Block* none = nullptr;
      if (!one.compare_exchange_strong(none, &block)) continue;
      block.kept.store(true);
      return true;
    }
  }
  kept_count_.fetch_sub(1);
  return false;
}

void LargeBlocks::use(Block& block) noexcept {
  if (!block.kept.exchange(false)) return;
  for (std::atomic<Block*>& one : tables_->kept) {
    Block* expected = &block;
    if (one.compare_exchange_strong(expected, nullptr)) break;
  }
  kept_count_.fetch_sub(1);
}

}  // namespace mirrorcl::device
