// SPDX-License-Identifier: Apache-2.0
// Pages that the application and devices have copies of: how they come to be, and how one of them becomes the only one.
#include <errno.h>

#include <algorithm>

#include "base/log.h"
#include "mirror/insist.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

using device::FaultKind;

// The pages around `page` that the application has too, as far as they lie in one mapping and are there.
Verdict Migrator::duplicate_in(AttachedDevice& device, Block& block, unsigned page) noexcept {
  const auto mapping = space_.query(block.base() + page * kPageSize);
  if (!mapping || !mapping->migratable()) return failed(FaultKind::kUnmappable);
  const PageRun around = block.pages(mapping->range);
  PageMask there;  // relative to `around`
  if (space_.present_pages(block.range(around), &there) != 0) return kTryAgain;
  const PageMask wanted = PageMask(decided_region(page)) & block.registered() & block.on_host() & ~block.discarding();
  const auto can_go = [&](unsigned i) { return around.contains(i) && wanted.test(i) && there.test(i - around.first); };
  if (!can_go(page)) return failed(FaultKind::kUnmappable);
  unsigned first = page;
  while (first > 0 && can_go(first - 1)) --first;
  unsigned end = page + 1;
  while (end < kBlockPages && can_go(end)) ++end;
  const PageRun run{first, end - first};
  block.recently_used |= device.set();
  const Outcome room = make_room(device, run.count * kPageSize, block);
  if (room != Outcome::kDone) return {room, FaultKind::kOutOfMemory};
  return copy_in_protected(device, block, run, Leave::kCopy);
}

Verdict Migrator::end_duplication(AttachedDevice& device, Block& block, unsigned page, bool mapped) noexcept {
  // No further than the mapping: beside it the application may not write, so the device may not either.
  const auto mapping = space_.query(block.base() + page * kPageSize);
  if (!mapping || !mapping->writable()) return kTryAgain;
  const PageMask copies = block.tracked(device.index) & block.copied() & PageMask(block.pages(mapping->range));
  const PageMask alone = block.device(device.index) & ~block.copied();
  PageRun region = region_around(block, page, alone, alone | copies,
                                 [&](const Block& other) { return other.device(device.index) == PageMask::all(); });
  if (region.count < kBulkPages) region = {page & ~(kBulkPages - 1), kBulkPages};
  const PageMask wanted = PageMask(region) & copies;
  drop_other_devices(device, block, wanted);
  const PageMask with_host = wanted & block.duplicated(device.index);
  Verdict verdict = kServed;
  for (PageRun run = with_host.next_run(0); run.count != 0 && verdict.outcome == Outcome::kDone;
       run = with_host.next_run(run.end())) {
    verdict = drop_host_copies(device, block, run);
  }
  const PageMask writable = wanted & block.device(device.index);
  for (PageRun run = writable.next_run(0); run.count != 0; run = writable.next_run(run.end())) {
    note(device, block.range(run), hms::Action::kMove, Live::To::kDevice, hms::Reason::kWritten);
  }
  count_replay();
  if (!mapped && writable.test(page)) grant(device, block.range(PageRun{page, 1}), Access::kReadWrite);
  for (PageRun run = writable.next_run(0); run.count != 0; run = writable.next_run(run.end())) {
    on_device([&] { return device->protect(block.range(run), Access::kReadWrite); });
  }
  return writable.test(page) ? kServed : verdict.outcome == Outcome::kDone ? kTryAgain : verdict;
}

// Takes the application's copies of `run` away and throws them away. Its device mappings stay write-protected.
Verdict Migrator::drop_host_copies(AttachedDevice& device, Block& block, PageRun run) noexcept {
  while (host_.can_move() && run.count != 0) {
    const Range range = block.range(run);
    std::uint64_t staging = 0;
    const auto progress = take_out(range, true, &staging);
    const auto gone = static_cast<unsigned>(progress.done / kPageSize);
    if (gone != 0) block.duplicated_to_device(device.index, {run.first, gone});
    run = {run.first + gone, run.count - gone};
    if (progress.error == 0) return kServed;
    if (progress.error == -EAGAIN || progress.error == -ENOMEM) {
      counters_.add(&Statistics::retries);
      return kTryAgain;
    }
    // Pinned, locked, shared with a child, or across mappings. One page at a time shows which.
    const PageRun first{run.first, 1};
    Verdict verdict = discard_host_copies(device, block, first);
    if (verdict.outcome != Outcome::kDone) return verdict;
    run = {run.first + 1, run.count - 1};
  }
  return run.count == 0 ? kServed : discard_host_copies(device, block, run);
}

Verdict Migrator::discard_host_copies(AttachedDevice& device, Block& block, PageRun run) noexcept {
  const Range range = block.range(run);
  events_.read_pending();
  if (events_.pending_on(range)) return kTryAgain;
  const int error = mappings_.discard(range);
  if (passes(error)) return kTryAgain;  // ENOMEM also means: unmapped, its event is on the way
  if (error != 0) {
    log_warning("the application's copy of {:#x} cannot be dropped: error {}", range.start, -error);
    return failed(FaultKind::kUnmappable);
  }
  block.duplicated_to_device(device.index, run);
  return kServed;
}

Outcome Migrator::end_duplication_on_device(Block& block, unsigned page) noexcept {
  const PageMask at_home = block.returned() & block.on_host();
  PageRun region = region_around(block, page, at_home, at_home | block.duplicated(), [](const Block& other) {
    return (other.returned() & other.on_host()) == PageMask::all();
  });
  if (region.count < kBulkPages) region = {page & ~(kBulkPages - 1), kBulkPages};
  cause_.reason = hms::Reason::kWritten;
  return drop_device_copies(block, PageMask(region) & block.duplicated());
}

// What cannot be let go yet, because events are on their way, is let go when it faults again.
Outcome Migrator::drop_device_copies(Block& block, const PageMask& pages, DeviceSet devices) noexcept {
  PageMask dropped;
  for (AttachedDevice& device : devices_) {
    if ((devices & device.set()) == 0) continue;
    const PageMask copies = block.duplicated(device.index) & pages;
    drop_copies(device, block, copies);
    dropped |= copies;
    for (PageRun run = copies.next_run(0); run.count != 0; run = copies.next_run(run.end())) {
      note(device, block.range(run), hms::Action::kMove, Live::To::kHost, cause_.reason);
    }
  }
  const PageMask alone = dropped & block.on_host();
  Outcome outcome = Outcome::kDone;
  for (PageRun run = alone.next_run(0); run.count != 0; run = alone.next_run(run.end())) {
    const Range range = block.range(run);
    const int error = host_.write_protect(range, false);
    if (passes(error)) outcome = Outcome::kAgain;
    if (!passes(error)) host_.wake(range);  // also where the mapping is gone: the access finds out
  }
  return outcome;
}

}  // namespace mirrorcl::mirror
