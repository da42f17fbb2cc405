// SPDX-License-Identifier: Apache-2.0
// Device faults on pages that another device holds: the pages go from one device's memory to the other's without coming
// home, or a copy of them does, or the one device maps the other's memory.
#include <errno.h>

#include <algorithm>

#include "base/log.h"
#include "mirror/insist.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

// Returns within the window after which a page counts as fought over, and how long it then stays where it came last.
constexpr std::uint32_t kContendedReturns = 2;
constexpr std::uint64_t kMinimumStayNs = 200'000;

}  // namespace

// The page of `fault` is in another device's memory, and maybe with the application too. `allowed`: what the
// application may do with it.
Verdict Migrator::serve_from_other(AttachedDevice& device, Block& block, const DeviceFault& fault,
                                   Access allowed) noexcept {
  const unsigned page = page_in_block(fault.address);
  if (fault.access != Access::kRead && block.duplicated().test(page)) {
    // The application's page is as good.
    if (end_duplication_on_device(block, page) == Outcome::kAgain) return kTryAgain;
    return serve_device(device, fault);
  }
  // A page that two devices fight over stays long enough for the access it came for, or it would be taken away each
  // time before the device has woken.
  if (block.returns != nullptr && block.granted_to != device.index && now_ns() - block.granted_ns < kMinimumStayNs &&
      block.returns->count(page, to_ms(now_ns()), options_.coherent_window_ms) >= kContendedReturns) {
    return kTryAgain;
  }
  const Verdict verdict = migrate_across(device, holder(block, page), block, page, fault.access, allowed);
  if (verdict.outcome == Outcome::kDone) bring_ahead(device, fault.address);
  return verdict;
}

// As migrate_in() does with pages at home: as many as hms/ said for `page` go, or copies of them.
Verdict Migrator::migrate_across(AttachedDevice& device, AttachedDevice& from, Block& block, unsigned page,
                                 Access access, Access allowed) noexcept {
  const auto mapping = space_.query(block.base() + page * kPageSize);
  if (!mapping) return kTryAgain;
  const PageMask possible =
      PageMask(decided_region(page)) & PageMask(block.pages(mapping->range)) & ~block.in_memory_of(device.index);
  PageMask wanted = possible & (block.device(from.index) | block.duplicated(from.index));
  // Where others have copies, or nobody may write, one more does no harm.
  const bool copies = access == Access::kRead && (decision_.action == hms::Action::kDuplicate ||
                                                  allowed == Access::kRead || block.copied().test(page));
  const Leave leave = copies ? Leave::kCopy : Leave::kNothing;
  if (leave == Leave::kNothing) wanted = possible & block.device(from.index);
  if (!wanted.test(page)) return kTryAgain;
  block.recently_used |= device.set();
  Outcome room = make_room(device, wanted.count() * kPageSize, block);
  if (room == Outcome::kFailed && wanted.count() > 1) {
    wanted = PageMask(PageRun{page, 1});
    room = make_room(device, kPageSize, block);
  }
  if (room != Outcome::kDone) return room == Outcome::kAgain ? kTryAgain : failed(FaultKind::kOutOfMemory);
  PageRun own{page, 1};
  while (own.first > 0 && wanted.test(own.first - 1)) --own.first;
  own.count = wanted.find_clear(page) - own.first;
  Verdict verdict = move_across(device, from, block, own, page, leave);
  // What is wrong with a page beside it is not this page's fault.
  if (verdict.outcome == Outcome::kFailed && own.count > 1 && !block.in_memory_of(device.index).test(page)) {
    verdict = move_across(device, from, block, {page, 1}, page, leave);
  }
  if (!block.in_memory_of(device.index).test(page)) return verdict;
  wanted.clear(own);
  for (PageRun run = wanted.next_run(0); run.count != 0; run = wanted.next_run(run.end())) {
    if (move_across(device, from, block, run, run.first, leave).outcome != Outcome::kDone) break;
  }
  return kServed;
}

// Copies `run`, which `from` holds, into the memory of `device`. With Leave::kNothing all other devices' copies go, and
// `device` may write.
Verdict Migrator::move_across(AttachedDevice& device, AttachedDevice& from, Block& block, PageRun run, unsigned urgent,
                              Leave leave) noexcept {
  const Range range = block.range(run);
  if (leave == Leave::kNothing) {
    expected_.forget();
    drop_other_copies(from, block, PageMask(run));
  }
  // Writers wait from here on; their faults are served afterwards.
  if (on_device([&] { return from->protect(range, Access::kRead); }) != 0) return kTryAgain;
  counters_.add(&Statistics::pages_between_devices, run.count);
  counters_.add(device.index, &DeviceStatistics::pages_from_devices, run.count);
  const bool alone = run.count == 1 && leave == Leave::kNothing;
  live_.note_migration(Live::To::kDevice, run.count, range.size);
  live_.note_decision({range, cause_.requester, hms::live::device_memory(from.index),
                       hms::live::device_memory(device.index), cause_.access,
                       leave == Leave::kCopy ? hms::Action::kDuplicate : hms::Action::kMove, cause_.reason});
  const Crossing crossing =
      alone ? cross_alone(device, from, block, run.first) : cross_in_bulk(device, from, block, run, urgent);
  const PageMask& copied = crossing.copied;
  for (PageRun part = copied.next_run(0); part.count != 0; part = copied.next_run(part.end())) {
    if (leave == Leave::kCopy) {
      block.add_duplicate(device.index, part);
      continue;
    }
    // Read-only on both sides until here, so that nobody reads what the other has written over.
    if (!alone) on_device([&] { return from->vacate(block.range(part)); });
    block.device_to_device(from.index, device.index, part);
    if (!alone) on_device([&] { return device->protect(block.range(part), Access::kReadWrite); });
    blocks_.returns_of(block).note(part, to_ms(now_ns()), options_.coherent_window_ms);
  }
  note_grant(device, block);
  if (crossing.error == 0) return kServed;

  const PageMask refused = PageMask(run) & ~copied;
  for (PageRun part = refused.next_run(0); part.count != 0; part = refused.next_run(part.end())) {
    on_device([&] { return device->unmap(block.range(part)); });
  }
  lift_protection(from, block, refused);
  log_warning("{} of {} bytes at {:#x} cannot be copied from one device to another: error {}",
              refused.count() * kPageSize, range.size, range.start, -crossing.error);
  return failed(FaultKind::kOutOfMemory);
}

// One page: the device that waits for it gets it in one step, writable.
Migrator::Crossing Migrator::cross_alone(AttachedDevice& device, AttachedDevice& from, const Block& block,
                                         unsigned page) noexcept {
  const Range range = block.range(PageRun{page, 1});
  int error = on_device([&] { return from->copy_out(range, bounce_); });
  if (error == 0) error = on_device([&] { return device->copy_in(range, bounce_); });
  if (error != 0) return {PageMask(), error};
  on_device([&] { return from->vacate(range); });
  grant(device, range, Access::kReadWrite);
  return {PageMask(PageRun{page, 1}), 0};
}

Migrator::Crossing Migrator::cross_in_bulk(AttachedDevice& device, AttachedDevice& from, const Block& block,
                                           PageRun run, unsigned urgent) noexcept {
  count_replay();
  PageMask missing(run);
  PageMask copied;
  std::atomic<int> error{0};
  const auto copy = [&](PageRun part) {
    const PageMask wanted = missing & PageMask(part);
    for (PageRun piece = wanted.next_run(part.first); piece.count != 0; piece = wanted.next_run(piece.end())) {
      char* const contents = bounce_ + piece.first * kPageSize;
      Progress progress{0, from->copy_out(block.range(piece), contents)};
      if (progress.error == 0) progress = device->copy_in_mapped(block.range(piece), contents, Access::kRead);
      copied.set(PageRun{piece.first, static_cast<unsigned>(progress.done / kPageSize)});
      if (progress.error != 0) {
        error.store(progress.error, std::memory_order_relaxed);
        return;
      }
    }
  };
  copy_in_parts(device->capabilities().parallel_copies && from->capabilities().parallel_copies, run, urgent, copy);
  while (error.load(std::memory_order_relaxed) == -EAGAIN) {
    counters_.add(&Statistics::retries);
    events_.read_pending();
    error.store(0, std::memory_order_relaxed);
    missing &= ~copied;
    copy(run);
  }
  return {copied, error.load(std::memory_order_relaxed)};
}

// For `device` to have `pages`, which is asked for: what others hold goes to it, or home if the application has it too.
Outcome Migrator::bring_from_others(AttachedDevice& device, Block& block, const PageMask& pages) noexcept {
  for (AttachedDevice& from : devices_) {
    if (&from == &device) continue;
    const PageMask coherent = block.coherent(from.index) & pages;
    for (PageRun run = coherent.next_run(0); run.count != 0; run = coherent.next_run(run.end())) {
      if (const Outcome outcome = end_coherence(from, block, run); outcome != Outcome::kDone) return outcome;
    }
    const PageMask away = block.device(from.index) & ~block.tracked(device.index) & pages;
    if (away.none()) continue;
    block.recently_used |= device.set();
    if (const Outcome room = make_room(device, away.count() * kPageSize, block); room != Outcome::kDone) return room;
    for (PageRun run = away.next_run(0); run.count != 0; run = away.next_run(run.end())) {
      const Verdict verdict = move_across(device, from, block, run, run.first, Leave::kNothing);
      if (verdict.outcome != Outcome::kDone) return verdict.outcome;
    }
  }
  return drop_device_copies(block, pages & block.duplicated() & ~block.duplicated(device.index));
}

// --- copies

// What other devices than `keep` have of `pages` as duplicates goes.
void Migrator::drop_other_copies(AttachedDevice& keep, Block& block, const PageMask& pages) noexcept {
  for (AttachedDevice& device : devices_) {
    if (&device != &keep) drop_copies(device, block, pages);
  }
}

void Migrator::drop_copies(AttachedDevice& device, Block& block, const PageMask& pages) noexcept {
  const PageMask copies = block.duplicated(device.index) & pages;
  for (PageRun run = copies.next_run(0); run.count != 0; run = copies.next_run(run.end())) {
    on_device([&] { return device->vacate(block.range(run)); });
    block.drop_duplicate(device.index, run);
  }
}

void Migrator::lift_protection(AttachedDevice& device, const Block& block, const PageMask& pages) noexcept {
  const PageMask alone = pages & ~block.copied();
  for (PageRun run = alone.next_run(0); run.count != 0; run = alone.next_run(run.end())) {
    on_device([&] { return device->protect(block.range(run), Access::kReadWrite); });
  }
}

// `keep`, which has duplicates of `pages`, is the only device that holds anything of them from then on. Its mappings
// stay write-protected.
void Migrator::drop_other_devices(AttachedDevice& keep, Block& block, const PageMask& pages) noexcept {
  drop_other_copies(keep, block, pages);
  for (AttachedDevice& device : devices_) {
    if (&device == &keep) continue;
    const PageMask owned = block.device(device.index) & block.duplicated(keep.index) & pages;
    for (PageRun run = owned.next_run(0); run.count != 0; run = owned.next_run(run.end())) {
      on_device([&] { return device->vacate(block.range(run)); });
      block.device_to_device(device.index, keep.index, run);
    }
  }
}

// --- coherent pages

// `device` maps the run of coherent pages around `page` from the memory that `owner` shares: one memory for both and
// the application. Where it cannot, the page stops being coherent for good.
Verdict Migrator::share_coherent(AttachedDevice& device, AttachedDevice& owner, Block& block, unsigned page,
                                 Access allowed) noexcept {
  if (block.sharing(device.index).test(page)) {
    // Another unit's fault brought it.
    count_replay();
    on_device([&] { return device->replay({block.base() + page * kPageSize, kPageSize}); });
    return kServed;
  }
  const auto mapping = space_.query(block.base() + page * kPageSize);
  if (!mapping) return kTryAgain;
  const PageMask possible =
      block.coherent(owner.index) & ~block.sharing(device.index) & PageMask(block.pages(mapping->range));
  if (!possible.test(page)) return kTryAgain;
  PageRun run{page, 1};
  while (run.first > 0 && possible.test(run.first - 1)) --run.first;
  run.count = possible.find_clear(page) - run.first;
  const Range range = block.range(run);
  // So that it is noticed when the application may write again; the device's write will be an error, not a fault.
  if (allowed == Access::kRead) watch(range, mapping->protection);
  count_replay();
  counters_.add(&Statistics::coherent_pages_shared, run.count);
  const int error = on_device([&] { return device->map_file(range, shared(owner).fd(), range.start, allowed); });
  if (error == 0) {
    block.share_coherent(device.index, run);
    return kServed;
  }
  log_debug("a device cannot map what another shares at {:#x}: error {}", range.start, -error);
  for (unsigned i = run.first; i < run.end(); ++i) block.mark_stays_private(i);
  const Outcome outcome = end_coherence(owner, block, run);
  return outcome == Outcome::kFailed ? failed(FaultKind::kUnmappable) : kTryAgain;
}

// `devices` map nothing of the coherent pages among `pages` that another device shares.
void Migrator::end_coherent_sharing(Block& block, const PageMask& pages, DeviceSet devices) noexcept {
  for (AttachedDevice& device : devices_) {
    if ((devices & device.set()) == 0) continue;
    const PageMask mapped = block.sharing(device.index) & pages;
    for (PageRun run = mapped.next_run(0); run.count != 0; run = mapped.next_run(run.end())) {
      unmap_file(block.range(run), device.set());
      block.end_coherent_sharing(device.index, run);
    }
  }
}

}  // namespace mirrorcl::mirror
