// SPDX-License-Identifier: Apache-2.0
// Device faults: what the device wants decides, with the state of the page, what is done.
#include <errno.h>
#include <sys/mman.h>

#include <algorithm>

#include "base/log.h"
#include "device/window.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

using device::FaultKind;

Verdict Migrator::serve_device(AttachedDevice& device, const DeviceFault& fault) noexcept {
  replay_uncounted_ = true;
  requester_ = device.index;
  kernel_node_ = kUnknownNode;
  cause_ = {hms::live::device_initiator(device.index),
            fault.access == Access::kRead ? hms::Access::kRead : hms::Access::kWrite, hms::Reason::kOnlyWay};
  wanted_for_writing_ = fault.access == Access::kRead ? 0 : fault.address;
  std::uint64_t address = fault.address;
  if (address < window::kUserSpaceStart || address >= window::kUserSpaceEnd || window::kWindow.contains(address)) {
    return failed(FaultKind::kInvalidAddress);
  }
  Block* block = blocks_.find(address);
  unsigned page = page_in_block(address);
  Range range{address, kPageSize};
  const PageState state = block == nullptr ? PageState::kHost : block->state(page);
  Access allowed = Access::kReadWrite;
  if ((state != PageState::kHost && state != PageState::kSnapshot) || watch_.has_read_only()) {
    // The application may have changed the protection since the page went to the device.
    allowed = host_access(address);
    if (allowed == Access::kNone) return failed(FaultKind::kInvalidAddress);
    if (allowed == Access::kRead && fault.access != Access::kRead) return failed(FaultKind::kReadOnly);
  }
  switch (state) {
    case PageState::kCoherent:
      if (AttachedDevice& owner = devices_[block->owner(page)]; &owner != &device) {
        return share_coherent(device, owner, *block, page, allowed);
      }
      return serve_coherent(device, *block, page, allowed);
    case PageState::kDevice:
    case PageState::kDuplicated:
      return serve_held(device, *block, fault, allowed);
    case PageState::kSnapshot: {
      const bool reads = fault.access == Access::kRead;
      if (reads && block->snapshot(device.index).test(page)) {
        grant(device, range, Access::kRead);
        return kServed;
      }
      auto mapping = space_.query(address);
      if (!mapping || mapping->protection == PROT_NONE) return failed(FaultKind::kInvalidAddress);
      if (reads && block->registered(page)) return take_snapshot(device, *block, page, *mapping);  // as another device
      if (reads) break;
      if (!mapping->migratable() && !mapping->private_file()) return refuse_write(address, *mapping);
      drop_snapshots(*block, PageMask(PageRun{page, 1}));  // the application may write it by now: mirror it
      break;
    }
    case PageState::kHost:
      break;
  }

  if (block == nullptr || !block->registered(page)) {
    bool served = false;
    Verdict verdict = register_around(device, address, fault.access, &block, &served);
    if (verdict.outcome != Outcome::kDone || served) return verdict;
    // Memory of a file that has become anonymous, with contents that the application's new pages refused.
    if (block->state(page) == PageState::kDevice) return serve_device(device, fault);
  }
  if (block->discarding().test(page)) {
    if (discard_is_recent(*block)) {
      // The application is about to discard this page. Until the kernel has, it still shows the old contents.
      PageMask present;
      if (space_.present_pages(range, &present) == 0 && present.any()) return kTryAgain;
    }
    block->clear_discarding({page, 1});
  }
  decide(*block, page);
  if (decision_.action == hms::Action::kFail) return failed(FaultKind::kUnmappable);
  if (is_to_be_shared()) {
    Outcome outcome = make_coherent(device, *block, page);
    if (outcome == Outcome::kAgain) return kTryAgain;
    if (outcome == Outcome::kDone) return kServed;
    if (block->state(page) != PageState::kHost) return serve_device(device, fault);
  }
  if (rests(*block)) return kTryAgain;
  if (decision_.action == hms::Action::kDuplicate) {
    const Verdict verdict = duplicate_in(device, *block, page);
    if (verdict.outcome != Outcome::kFailed) return verdict;
  }
  const Verdict verdict = migrate_in(device, *block, page);
  if (verdict.outcome == Outcome::kDone) bring_ahead(device, fault.address);
  return verdict;
}

// The application discarded the page, or what the device may do was restricted, or the device has restarted.
Verdict Migrator::serve_coherent(AttachedDevice& device, const Block& block, unsigned page, Access allowed) noexcept {
  SharedMemory memory = shared(device);
  const PageMask& coherent = block.coherent(device.index);
  PageRun run{page, 1};
  while (memory.on_host() && run.first > 0 && coherent.test(run.first - 1)) --run.first;
  if (memory.on_host()) run.count = coherent.find_clear(page) - run.first;
  count_replay();
  on_device([&] { return memory.zero_fill(block.range(PageRun{page, 1})); });
  on_device([&] { return memory.map(block.range(run), allowed); });
  return kServed;
}

Verdict Migrator::serve_held(AttachedDevice& device, Block& block, const DeviceFault& fault, Access allowed) noexcept {
  const unsigned page = page_in_block(fault.address);
  const Range range{fault.address, kPageSize};
  const bool reads = fault.access == Access::kRead;
  if (reads && block.tracked(device.index).test(page) && block.copied().test(page)) {
    grant(device, range, Access::kRead);  // another unit's fault brought it
    return kServed;
  }
  const bool may_share = allowed == Access::kReadWrite && (!reads || block.state(page) == PageState::kDevice);
  if (may_share || !block.tracked(device.index).test(page)) decide(block, page);
  if (may_share && is_to_be_shared()) {
    AttachedDevice& home =
        block.duplicated(device.index).test(page) && block.owner(page) == kMaxDevices ? device : holder(block, page);
    const Outcome outcome = make_coherent(home, block, page);
    if (outcome == Outcome::kDone && &home != &device) return share_coherent(device, home, block, page, allowed);
    if (outcome != Outcome::kFailed) return {outcome};
    if (block.state(page) == PageState::kHost) return kTryAgain;
  }
  if (!block.tracked(device.index).test(page)) return serve_from_other(device, block, fault, allowed);
  if (block.copied().test(page)) return end_duplication(device, block, page, fault.protection);
  // Another unit's fault brought it, or the mapping was dropped or write-protected on the way to a host that did not
  // take it; or a large page, of which another part went home, is mapped no longer.
  grant(device, block.range(dropped_around(device, block, page)), allowed);
  if (fault.protection) on_device([&] { return device->protect(range, Access::kReadWrite); });
  return kServed;
}

// Pages around `page`, which the device holds, that it may use as freely, if they were mapped with it as one.
PageRun Migrator::dropped_around(const AttachedDevice& device, const Block& block, unsigned page) const noexcept {
  if ((block.large_on & device.set()) == 0 || watch_.has_read_only()) return {page, 1};
  const PageRun around{page & ~(kBulkPages - 1), kBulkPages};
  const PageMask free = block.device(device.index) & ~block.copied() & PageMask(around);
  PageRun run{page, 1};
  while (run.first > around.first && free.test(run.first - 1)) --run.first;
  run.count = std::min(free.find_clear(page), around.end()) - run.first;
  return run;
}

// Maps `range` for the device, which lets the access that is being served go on. Counted before, so that whoever waits
// for the device sees it.
void Migrator::grant(AttachedDevice& device, Range range, Access access) noexcept {
  count_replay();
  on_device([&] { return device->map(range, access); });
}

void Migrator::count_replay() noexcept {
  if (replay_uncounted_) counters_.add(&Statistics::replays);
  replay_uncounted_ = false;
}

Verdict Migrator::register_around(AttachedDevice& device, std::uint64_t address, Access access, Block** block,
                                  bool* served) noexcept {
  auto mapping = space_.query(address);
  if (!mapping || mapping->protection == PROT_NONE) return failed(FaultKind::kInvalidAddress);
  if (const Outcome outcome = take_back_grown(address); outcome != Outcome::kFailed) return kTryAgain;
  if (auto shared = share_file(device.set(), address, access, *mapping)) {
    *served = true;
    return *shared;
  }
  if (mapping->private_file()) {
    const Outcome outcome = make_anonymous(device, address, *mapping);
    if (outcome == Outcome::kAgain) return kTryAgain;
    if (outcome == Outcome::kDone) return register_around(device, address, access, block, served);
  }
  if (!mapping->migratable()) {
    if (access != Access::kRead) return refuse_write(address, *mapping);
    *block = &blocks_.find_or_create(address);
    *served = true;
    return take_snapshot(device, **block, page_in_block(address), *mapping);
  }
  *block = &blocks_.find_or_create(address);
  PageRun run = (*block)->pages(mapping->range);
  int error = host_.register_range((*block)->range(run), kTrackMissing | kTrackWrites);
  if (error == 0 && !tracks_all(**block, run)) {
    blocks_.remove_if_empty(**block);
    *block = nullptr;
    return kTryAgain;
  }
  if (error == 0) {
    // Memory that was read-only a moment ago may have left copies.
    drop_snapshots(**block, PageMask(run));
    (*block)->mark_registered(run);
    watch((*block)->range(run), mapping->protection);
    return kServed;
  }
  blocks_.remove_if_empty(**block);
  *block = nullptr;
  if (error == -EBUSY) {
    log_warning("{:#x} is handled by another userfaultfd of the application and cannot be mirrored", address);
    return failed(FaultKind::kUnmappable);
  }
  auto now = space_.query(address);
  bool changed =
      !now || now->range.start != mapping->range.start || now->range.size != mapping->range.size || !now->migratable();
  if (changed) return kTryAgain;
  // It may have been unmapped for a moment.
  if (host_.register_range({page_down(address), kPageSize}, kTrackMissing | kTrackWrites) == 0) return kTryAgain;
  log_warning("{:#x} cannot be registered with userfaultfd: error {}", address, -error);
  return failed(error == -ENOMEM ? FaultKind::kOutOfMemory : FaultKind::kUnmappable);
}

// Registering passes over holes: where something has just been unmapped in part, the next mapping would be taken for
// registered, and its pages for ours.
bool Migrator::tracks_all(const Block& block, PageRun run) const noexcept {
  const PageMask fresh = PageMask(run) & ~block.registered();
  for (PageRun part = fresh.next_run(0); part.count != 0; part = fresh.next_run(part.end())) {
    if (host_.confirm_anonymous(block.range(part)) != 0) return false;
  }
  return true;
}

Verdict Migrator::refuse_write(std::uint64_t address, const MappingInfo& mapping) noexcept {
  if (!mapping.writable()) return failed(FaultKind::kReadOnly);
  const char* what = mapping.excluded    ? "memory that the driver itself runs on"
                     : mapping.shared    ? "a shared mapping of a file"
                     : mapping.anonymous ? "memory without read permission"
                                         : "a private mapping of a file (such as initialised global variables)";
  log_warning("a kernel writes {:#x}, which lies in {}: devices can only read it", address, what);
  return failed(FaultKind::kUnmappable);
}

}  // namespace mirrorcl::mirror
