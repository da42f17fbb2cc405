// SPDX-License-Identifier: Apache-2.0
// Moves that a program asks for (hms/hbind.h), as opposed to those that accesses cause.
#include "base/log.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

Outcome Migrator::bring_in(AttachedDevice& device, Range range, Untouched untouched) noexcept {
  replay_uncounted_ = false;
  Outcome from_others = Outcome::kDone;
  blocks_.for_each(range, [&](Block& block) {
    if (from_others == Outcome::kAgain) return;
    from_others = bring_from_others(device, block, PageMask(block.pages(range)));
  });
  if (from_others == Outcome::kAgain) return Outcome::kAgain;
  for (std::uint64_t address = range.start; address < range.end();) {
    if (events_.has_events()) return Outcome::kAgain;  // what has happened to the range comes first
    const auto mapping = space_.query(address);
    std::uint64_t end = std::min(range.end(), block_down(address) + kBlockSize);
    end = std::min(end, mapping ? mapping->range.end() : address + kPageSize);
    if (mapping && mapping->migratable()) {
      if (bring_part_in(device, {address, end - address}, untouched) == Outcome::kAgain) return Outcome::kAgain;
    }
    address = end;
  }
  return Outcome::kDone;
}

// Which pages of `part`, which lies in one block and one mapping, can go to the device. *block is theirs, if there are
// any.
Outcome Migrator::find_movable(AttachedDevice& device, Range part, Untouched untouched, Block** block,
                               PageMask* movable) noexcept {
  const unsigned first = page_in_block(part.start);
  *movable = {};
  PageMask present;                                                      // relative to `first`
  if (space_.present_pages(part, &present) != 0) return Outcome::kDone;  // unmapped meanwhile
  if (untouched == Untouched::kSkip && present.none()) return Outcome::kDone;
  *block = blocks_.find(part.start);
  if (*block == nullptr || !(*block)->registered(first)) {
    bool served = false;
    const Verdict verdict = register_around(device, part.start, Access::kReadWrite, block, &served);
    if (verdict.outcome != Outcome::kDone || served) {
      return verdict.outcome == Outcome::kAgain ? Outcome::kAgain : Outcome::kDone;
    }
  }
  *movable = PageMask((*block)->pages(part)) & (*block)->registered() & (*block)->on_host() & ~(*block)->discarding();
  if (untouched == Untouched::kAllocate) return Outcome::kDone;
  const PageMask possible = *movable;
  for (PageRun run = possible.next_run(0); run.count != 0; run = possible.next_run(run.end())) {
    for (unsigned page = run.first; page < run.end(); ++page) {
      if (!present.test(page - first)) movable->clear(page);
    }
  }
  return Outcome::kDone;
}

// `part` lies in one block and one mapping. What cannot be moved is left out.
Outcome Migrator::bring_part_in(AttachedDevice& device, Range part, Untouched untouched) noexcept {
  Block* block = nullptr;
  PageMask wanted;
  const Outcome found = find_movable(device, part, untouched, &block, &wanted);
  if (found != Outcome::kDone || wanted.none()) return found;
  block->recently_used |= device.set();
  const Outcome room = make_room(device, wanted.count() * kPageSize, *block);
  if (room == Outcome::kFailed)
    log_info("what was asked for at {:#x} does not move: the device's memory is full", part.start);
  if (room != Outcome::kDone) return room == Outcome::kAgain ? Outcome::kAgain : Outcome::kDone;
  for (PageRun run = wanted.next_run(0); run.count != 0; run = wanted.next_run(run.end())) {
    if (move_in(device, *block, run, run.first).outcome == Outcome::kAgain) return Outcome::kAgain;
  }
  return Outcome::kDone;
}

PageMask Migrator::device_pages(AttachedDevice& device, std::uint64_t block_address) noexcept {
  const Block* block = blocks_.find(block_address);
  return block == nullptr ? PageMask() : device_pages(device, *block);
}

PageMask Migrator::device_pages(AttachedDevice& device, const Block& block) noexcept {
  const PageMask pages = block.in_memory_of(device.index) & ~block.snapshot(device.index);
  return shared(device).on_host() ? pages & ~block.coherent(device.index) : pages;
}

}  // namespace mirrorcl::mirror
