// SPDX-License-Identifier: Apache-2.0
// What the application discards (MADV_DONTNEED, MADV_REMOVE, MADV_FREE). The event is the same for all, and comes
// before the kernel does anything; the system call goes on as soon as it has been read.
#include <algorithm>

#include "mirror/migrator.h"

namespace mirrorcl::mirror {
namespace {

// How long after its event the kernel may not yet have dropped the pages.
constexpr std::uint64_t kDiscardGraceNs = 20'000'000;
// How long launches wait to know what becomes of coherent pages: on a busy machine the thread may be interrupted in its
// system call for tens of milliseconds.
constexpr std::uint64_t kWatchNs = 200'000'000;

}  // namespace

bool Migrator::discard_is_recent(const Block& block) const noexcept {
  return block.discarding().any() && now_ns() - block.discarding_since_ns() < kDiscardGraceNs;
}

void Migrator::discarded(Range range) noexcept {
  expected_.forget();
  counters_.add(&Statistics::events_remove);
  std::uint64_t now = now_ns();
  for (MovedPage& page : moved_pages_) {
    page.discarded = page.discarded || (page.address >= range.start && page.address < range.end());
  }
  blocks_.for_each(range, [&](Block& block) {
    PageMask wanted(block.pages(range));
    // Device memory shows zeros from now on.
    empty_device_memory(block, wanted & ~block.coherent());
    for (const AttachedDevice& device : devices_) {
      const PageMask coherent = block.coherent(device.index) & wanted;
      if (coherent.any()) announced_discards_.push_back({device.index, block.base(), coherent, now});
    }
    const PageMask on_host = (block.on_host() | block.duplicated()) & block.registered() & wanted;
    for (unsigned device = 0; device < kMaxDevices; ++device) {
      const PageMask copies = block.duplicated(device) & wanted;
      for (PageRun part = copies.next_run(0); part.count != 0; part = copies.next_run(part.end()))
        block.drop_duplicate(device, part);
    }
    for (unsigned device = 0; device < kMaxDevices; ++device) {
      const PageMask copies = block.snapshot(device) & wanted;
      for (PageRun part = copies.next_run(0); part.count != 0; part = copies.next_run(part.end()))
        block.snapshot_to_host(device, part);
      const PageMask away = block.device(device) & wanted;
      for (PageRun part = away.next_run(0); part.count != 0; part = away.next_run(part.end()))
        block.device_to_discarded(device, part);
    }
    if (on_host.any()) block.mark_discarding(on_host, now);
    blocks_.remove_if_empty(block);
  });
  (void)settle_discards();
}

// Of `pages`, which are coherent, those that the application's page table has no entry for though their mapping is
// there. While mremap and munmap are under way neither can be looked at; afterwards the mapping has gone too.
PageMask Migrator::without_entry(const Block& block, const PageMask& pages) const noexcept {
  PageMask present;
  if (space_.present_pages(block.range(), &present) != 0) return {};
  PageMask without;
  const PageMask missing = pages & ~present;
  for (PageRun run = missing.next_run(0); run.count != 0; run = missing.next_run(run.end())) {
    const Range range = block.range(run);
    for (std::uint64_t address = range.start; address < range.end();) {
      const auto mapping = space_.query_from(address);
      if (!mapping || mapping->range.start >= range.end()) break;  // it may begin further on, or beyond the block
      const std::uint64_t start = std::max(address, mapping->range.start);
      const std::uint64_t end = std::min(mapping->range.end(), range.end());
      const bool in_its_place = mapping->file_offset + (start - mapping->range.start) == start;
      if (shows_shared_memory(*mapping) && in_its_place) without.set(block.pages({start, end - start}));
      address = end;
    }
  }
  return without;
}

// Coherent pages are zero once the application's page table has no entry for them any more: its next access faults to
// the mirror. If the entries stay it was MADV_FREE, which fails on shared mappings, and what the application writes
// from then on must not be lost. kAgain: not known yet of all pages.
Outcome Migrator::settle_discards() noexcept {
  if (announced_discards_.empty()) return Outcome::kDone;
  Outcome outcome = Outcome::kDone;
  const std::uint64_t now = now_ns();
  std::erase_if(announced_discards_, [&](AnnouncedDiscard& discard) {
    const Block* block = blocks_.find(discard.block);
    if (block == nullptr) return true;
    discard.pages &= block->coherent(discard.device);
    const PageMask gone = without_entry(*block, discard.pages);
    for (PageRun run = gone.next_run(0); run.count != 0; run = gone.next_run(run.end())) {
      on_device([&] { return shared(devices_[discard.device]).clear(block->range(run)); });
    }
    discard.pages &= ~gone;
    if (discard.pages.none() || now - discard.since_ns > kWatchNs) return true;
    outcome = Outcome::kAgain;
    return false;
  });
  return outcome;
}

bool Migrator::is_announced(const Block& block, unsigned page) const noexcept {
  return std::any_of(announced_discards_.begin(), announced_discards_.end(), [&](const AnnouncedDiscard& discard) {
    return discard.block == block.base() && discard.pages.test(page);
  });
}

// What was announced of `run` was about an earlier mapping.
void Migrator::forget_announced(const Block& block, PageRun run) noexcept {
  for (AnnouncedDiscard& discard : announced_discards_) {
    if (discard.block == block.base()) discard.pages.clear(run);
  }
}

}  // namespace mirrorcl::mirror
