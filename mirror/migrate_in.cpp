// SPDX-License-Identifier: Apache-2.0
// Device faults: pages go from the application to the device, or a read-only copy of them does.
#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include <atomic>

#include "base/log.h"
#include "base/raw_syscall.h"
#include "device/window.h"
#include "mirror/insist.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

constexpr Verdict kServed{Outcome::kDone};
constexpr Verdict kTryAgain{Outcome::kAgain};
constexpr unsigned kSnapshotPages = 16;
constexpr std::uint64_t kPinPatienceNs = 100'000'000;

Verdict failed(FaultKind kind) {
  return {Outcome::kFailed, kind};
}

}  // namespace

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
  // take it.
  grant(device, range, allowed);
  if (fault.protection) on_device([&] { return device->protect(range, Access::kReadWrite); });
  return kServed;
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

Verdict Migrator::migrate_in(AttachedDevice& device, Block& block, unsigned page) noexcept {
  if (block.discarding().any() && !discard_is_recent(block)) block.clear_discarding({0, kBlockPages});
  PageMask wanted = PageMask(decided_region(page)) & block.registered() & block.on_host() & ~block.discarding();
  wanted.set(page);
  block.recently_used |= device.set();
  Outcome room = make_room(device, wanted.count() * kPageSize, block);
  if (room == Outcome::kFailed && wanted.count() > 1) {
    wanted = {};
    wanted.set(page);
    room = make_room(device, kPageSize, block);
  }
  if (room != Outcome::kDone) return room == Outcome::kAgain ? kTryAgain : failed(FaultKind::kOutOfMemory);
  // The faulting page's own run first: should events interrupt the rest, the device can still go on.
  PageRun own{page, 1};
  while (own.first > 0 && wanted.test(own.first - 1)) --own.first;
  own.count = wanted.find_clear(page) - own.first;
  Verdict verdict = move_in(device, block, own, page);
  // What is wrong with a page beside it (read-only by now, say) is not this page's fault.
  if (verdict.outcome == Outcome::kFailed && own.count > 1 && block.state(page) == PageState::kHost) {
    verdict = move_in(device, block, {page, 1}, page);
  }
  if (block.state(page) != PageState::kDevice) return verdict.outcome == Outcome::kDone ? kTryAgain : verdict;
  wanted.clear(own);
  for (PageRun run = wanted.next_run(0); run.count != 0; run = wanted.next_run(run.end())) {
    if (move_in(device, block, run, run.first).outcome != Outcome::kDone) break;
  }
  return kServed;
}

// Moves the pages of `source` to an empty range, of which it tells the address. Locked memory moves to locked memory
// only.
Progress Migrator::take_out(Range source, bool skip_holes, std::uint64_t* staging) noexcept {
  *staging = staging_.take(source.size);
  if (*staging == 0) return {0, -EINVAL};  // as if there were no MOVE
  const Progress result = take_out_to(*staging, source, skip_holes);
  if (result.done != 0 || result.error != -EINVAL) return result;
  const std::uint64_t locked = staging_.take_locked(source.size);
  if (locked == 0) return result;
  *staging = locked;
  return take_out_to(locked, source, skip_holes);
}

// Linux 6.18 has been seen to move a page, to try again
// because the page tables had changed under it, and to answer that the destination exists (EEXIST): what lies there has
// been moved.
Progress Migrator::take_out_to(std::uint64_t staging, Range source, bool skip_holes) noexcept {
  Progress result = host_.move(staging, source, skip_holes);
  while (result.error == -EEXIST) {
    PageMask there;
    const Range rest{staging + result.done, source.size - result.done};
    if (space_.present_pages(rest, &there) != 0 || !there.test(0)) break;
    result.done += there.find_clear(0) * kPageSize;
    result.error = 0;
    if (result.done == source.size) break;
    const auto more =
        host_.move(staging + result.done, {source.start + result.done, source.size - result.done}, skip_holes);
    result = {result.done + more.done, more.error};
  }
  return result;
}

Verdict Migrator::move_in(AttachedDevice& device, Block& block, PageRun run, unsigned urgent) noexcept {
  if (cause_.reason == hms::Reason::kAsked) home_node_ = nodes_.node_of(block.base() + urgent * kPageSize);
  if (home_node_ != kUnknownNode) block.home_node = static_cast<std::int16_t>(home_node_);
  for (unsigned page = run.first; page < run.end();) {
    PageRun rest{page, run.end() - page};
    if (!host_.can_move()) {
      unsigned served = 0;
      Verdict verdict = move_in_stubborn(device, block, rest, -EINVAL, &served);
      if (verdict.outcome != Outcome::kDone) return verdict;
      page += served;
      continue;
    }
    Range source = block.range(rest);
    std::uint64_t staging = 0;
    auto progress = take_out(source, rest.count > 1, &staging);
    PageMask present;  // relative to `page`
    if (rest.count == 1) {
      if (progress.error == 0) present.set(0U);
      if (progress.error == -ENOENT) progress = {kPageSize, 0};  // never touched: zeros
    } else if (progress.done != 0 && space_.present_pages({staging, progress.done}, &present) != 0) {
      put_back({source.start, progress.done}, staging);
      return failed(FaultKind::kUnknown);
    }
    unsigned moved = static_cast<unsigned>(progress.done / kPageSize);
    block.was_huge = moved == kBlockPages && space_.is_huge({staging, kBlockSize});
    if (moved != 0) {
      Verdict verdict = adopt(device, block, {page, moved}, present, staging, urgent);
      if (verdict.outcome != Outcome::kDone) return verdict;
      if (present == PageMask::all() && !nodes_.several()) {
        staging_.keep(staging, block.was_huge ? Staging::Kind::kHugePage : Staging::Kind::kSmallPages);
      }
      page += moved;
    }
    if (progress.error == 0) continue;
    if (progress.error == -EAGAIN) {
      counters_.add(&Statistics::retries);
      return kTryAgain;
    }
    unsigned served = 0;
    Verdict verdict = move_in_stubborn(device, block, {page, run.end() - page}, progress.error, &served);
    if (verdict.outcome != Outcome::kDone) return verdict;
    page += served;
  }
  return kServed;
}

// MOVE refused the first page of `run` with `error`. Serves at least that page (*served pages), or makes it ready for
// another try
// (*served = 0).
Verdict Migrator::move_in_stubborn(AttachedDevice& device, Block& block, PageRun run, int error,
                                   unsigned* served) noexcept {
  *served = 0;
  Range first = block.range(PageRun{run.first, 1});
  auto mapping = space_.query(first.start);
  if (!mapping || mapping->protection == PROT_NONE) return failed(FaultKind::kInvalidAddress);
  if (!mapping->migratable()) {
    // mprotect raises no event: it is read-only now. A copy will do for readers; for writers the fault comes again.
    Verdict verdict = take_snapshot(device, block, run.first, *mapping);
    *served = 1;
    return verdict;
  }
  PageRun same_mapping =
      block.pages({first.start, std::min(mapping->range.end(), block.range(run).end()) - first.start});
  if (error == -EBUSY) {
    // Shared with a forked child: let the kernel break the sharing, as a write would. Only pages that are there:
    // missing ones would fault here.
    PageMask present;
    if (space_.present_pages(block.range(same_mapping), &present) != 0) return kTryAgain;
    unsigned shared = std::min(present.find_clear(0), same_mapping.count);
    if (shared == 0) return kTryAgain;
    Range range = block.range(PageRun{run.first, shared});
    agent_.make_exclusive(range, events_, host_);
    std::uint64_t staging = 0;
    auto progress = take_out(first, false, &staging);
    if (progress.error == 0) {
      PageMask one;
      one.set(0U);
      *served = 1;
      return adopt(device, block, {run.first, 1}, one, staging, run.first);
    }
    if (progress.error != -EBUSY) return kTryAgain;
    if (first.start == wanted_for_writing_) return wait_for_unpinning(first.start);
    log_debug("{:#x} is pinned for input or output by the kernel and cannot move; the device gets a read-only copy",
              first.start);
    *served = 1;
    return take_snapshot(device, block, run.first, *mapping);
  }
  if (error == -EINVAL && same_mapping.count < run.count) {
    // The run crosses into another mapping, which MOVE refuses as a whole.
    *served = same_mapping.count;
    return move_in(device, block, same_mapping, same_mapping.first);
  }
  if (error == -EINVAL) {
    // Executable memory, locked memory where no more may be locked, or a kernel without MOVE.
    *served = same_mapping.count;
    return copy_in_protected(device, block, same_mapping, Leave::kNothing);
  }
  if (error == -ENOENT) return kTryAgain;
  if (error == -EFAULT) return failed(FaultKind::kInvalidAddress);  // a guard page (MADV_GUARD_INSTALL)
  log_warning("pages at {:#x} cannot be moved: error {}", first.start, -error);
  return failed(error == -ENOMEM ? FaultKind::kOutOfMemory : FaultKind::kUnmappable);
}

// The device wants to write a page that the kernel has pinned for input or output. Mostly that is over soon; a buffer
// registered with io_uring stays pinned, and must stay the application's own page.
Verdict Migrator::wait_for_unpinning(std::uint64_t address) noexcept {
  const std::uint64_t now = now_ns();
  if (pinned_page_ != address) {
    pinned_page_ = address;
    pinned_since_ns_ = now;
  }
  if (now - pinned_since_ns_ < kPinPatienceNs) return kTryAgain;
  pinned_page_ = 0;
  log_warning("{:#x} is pinned for input or output by the kernel and cannot move: devices can only read it", address);
  return failed(FaultKind::kUnmappable);
}

void Migrator::note_thread_blocks(const Block& block, const PageMask& contents, PageRun run,
                                  std::uint64_t staging) noexcept {
  for (PageRun part = contents.next_run(0); part.count != 0; part = contents.next_run(part.end())) {
    for (unsigned page = part.first; page < part.end(); ++page) {
      thread_blocks_.note(block.base() + page * kPageSize,
                          reinterpret_cast<const void*>(staging + (page - run.first) * kPageSize));
    }
  }
}

// `run`'s pages are out of the application and lie at `staging` where `present` (relative to the run) says so. The
// device may use each page as soon as it is copied: until this returns nobody else asks where it is.
Verdict Migrator::adopt(AttachedDevice& device, Block& block, PageRun run, const PageMask& present,
                        std::uint64_t staging, unsigned urgent) noexcept {
  if (!run.contains(urgent)) urgent = run.first;
  count_replay();
  PageMask contents;  // pages of the block to be copied
  for (PageRun part = present.next_run(0); part.count != 0; part = present.next_run(part.end())) {
    contents.set(PageRun{run.first + part.first, part.count});
  }
  const PageMask holes = PageMask(run) & ~contents;
  note_thread_blocks(block, contents, run, staging);
  // Counted before the device goes on, so that whoever waits for the device sees it.
  counters_.add(&Statistics::pages_to_device, contents.count());
  counters_.add(&Statistics::bytes_to_device, contents.count() * kPageSize);
  counters_.add(&Statistics::pages_zero_filled, run.count - contents.count());
  live_.note_migration(Live::To::kDevice, run.count, contents.count() * kPageSize);
  note(device, block.range(run), hms::Action::kMove, Live::To::kDevice,
       contents.none() ? hms::Reason::kFirstTouch : cause_.reason);
  PageMask copied;
  std::atomic<int> error{0};
  const auto copy = [&](PageRun part) {
    const PageMask wanted = contents & PageMask(part);
    for (PageRun piece = wanted.next_run(part.first); piece.count != 0; piece = wanted.next_run(piece.end())) {
      const auto* source = reinterpret_cast<const void*>(staging + (piece.first - run.first) * kPageSize);
      const Progress progress = device->copy_in_mapped(block.range(piece), source, Access::kReadWrite);
      copied.set(PageRun{piece.first, static_cast<unsigned>(progress.done / kPageSize)});
      if (progress.error != 0) {
        error.store(progress.error, std::memory_order_relaxed);
        return;
      }
    }
  };
  copy_in_parts(device->capabilities().parallel_copies, run, urgent, copy);
  const auto may_try_again = [&](int result) {
    return result == -EAGAIN || (result == -ENOMEM && staging_.free_spares());
  };
  while (may_try_again(error.load(std::memory_order_relaxed))) {
    counters_.add(&Statistics::retries);
    events_.read_pending();
    error.store(0, std::memory_order_relaxed);
    contents &= ~copied;
    copy(run);
  }
  int failure = error.load(std::memory_order_relaxed);
  PageMask taken = copied;
  for (PageRun part = holes.next_run(0); part.count != 0 && failure == 0; part = holes.next_run(part.end())) {
    const Range range = block.range(part);
    failure = on_device([&] { return device->zero_fill(range); });
    if (failure == 0) failure = on_device([&] { return device->map(range, Access::kReadWrite); });
    if (failure == 0) taken.set(part);
  }
  for (PageRun part = taken.next_run(0); part.count != 0; part = taken.next_run(part.end())) {
    block.host_to_device(device.index, part);
  }
  note_grant(device, block);
  if (failure == 0) return kServed;

  const PageMask refused = PageMask(run) & ~taken;
  for (PageRun part = refused.next_run(0); part.count != 0; part = refused.next_run(part.end())) {
    on_device([&] { return device->unmap(block.range(part)); });
    put_back(block.range(part), staging + (part.first - run.first) * kPageSize);
  }
  log_warning("device memory refused {} of {} bytes at {:#x}: error {}", refused.count() * kPageSize,
              run.count * kPageSize, block.range(run).start, -failure);
  return failed(FaultKind::kOutOfMemory);
}

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

// For kernels without MOVE and for memory that it refuses: stop writers, copy, drop. `run` lies in one mapping. Leave::
// kCopy: the application keeps its pages, all of which are there, and the device may only read.
Verdict Migrator::copy_in_protected(AttachedDevice& device, Block& block, PageRun run, Leave leave) noexcept {
  Range range = block.range(run);
  int error = host_.write_protect(range, true);
  if (error != 0) return error == -EAGAIN || error == -ENOENT ? kTryAgain : failed(FaultKind::kUnmappable);
  auto give_up = [&](Verdict verdict) {
    host_.write_protect(range, false);
    host_.wake(range);
    return verdict;
  };
  PageMask present;
  if (space_.present_pages(range, &present) != 0) return give_up(kTryAgain);
  unsigned copied = 0;
  for (PageRun part = present.next_run(0); part.count != 0; part = present.next_run(part.end())) {
    Range source{range.start + part.first * kPageSize, part.count * kPageSize};
    error = space_.read(source.start, bounce_, source.size);
    if (error == 0) error = on_device([&] { return device->copy_in(source, bounce_); });
    if (error != 0) {
      on_device([&] { return device->unmap(range); });
      if (error == -EIO && space_.has_guard(source)) return give_up(failed(FaultKind::kInvalidAddress));
      return give_up(error == -EIO ? kTryAgain : failed(FaultKind::kOutOfMemory));
    }
    const PageRun pages{run.first + part.first, part.count};
    if (leave == Leave::kNothing) {
      note_thread_blocks(block, PageMask(pages), pages, reinterpret_cast<std::uint64_t>(bounce_));
    }
    copied += part.count;
  }
  if (copied < run.count) error = on_device([&] { return device->zero_fill(range); });
  events_.read_pending();
  if (error == 0 && leave == Leave::kCopy) {
    error = copied == run.count && !events_.pending_on(range) ? 0 : -EAGAIN;
  } else if (error == 0 && events_.pending_on(range)) {
    error = -EAGAIN;
  } else if (error == 0 && copied != 0) {
    error = discard(range);
  }
  if (error != 0) {
    on_device([&] { return device->unmap(range); });
    return give_up(error == -EAGAIN ? kTryAgain : failed(FaultKind::kUnmappable));
  }
  const bool duplicated = leave == Leave::kCopy;
  if (duplicated) block.host_to_duplicated(device.index, run);
  if (!duplicated) block.host_to_device(device.index, run);
  note_grant(device, block);
  if (duplicated) counters_.add(&Statistics::pages_duplicated, copied);
  counters_.add(&Statistics::pages_to_device, copied);
  counters_.add(&Statistics::bytes_to_device, copied * kPageSize);
  counters_.add(&Statistics::pages_zero_filled, run.count - copied);
  live_.note_migration(Live::To::kDevice, run.count, copied * kPageSize);
  note(device, range, duplicated ? hms::Action::kDuplicate : hms::Action::kMove, Live::To::kDevice,
       copied == 0 ? hms::Reason::kFirstTouch : cause_.reason);
  grant(device, range, duplicated ? Access::kRead : Access::kReadWrite);
  // The application's writers go on, or fault to us.
  if (!duplicated) host_.wake(range);
  return kServed;
}

// Must succeed, or data is lost; only pages that the application has unmapped meanwhile are dropped.
void Migrator::put_back(Range range, std::uint64_t staging) noexcept {
  bool page_by_page = false;
  for (std::uint64_t done = 0; done < range.size;) {
    const std::uint64_t size = page_by_page ? kPageSize : range.size - done;
    const auto progress = host_.move(range.start + done, {staging + done, size}, true);
    done += progress.done;
    if (progress.error == 0) continue;
    if (passes(progress.error)) {
      events_.read_pending();
      pause_briefly();
    } else if (progress.error != -EEXIST && size > kPageSize) {
      page_by_page = true;  // the range crosses into another mapping, and is refused as a whole
    } else {
      // MOVE does not give to memory that has become read-only; COPY does.
      if (progress.error == -EINVAL) put_copy_back(range.start + done, staging + done);
      if (progress.error == -ENOENT) log_debug("{:#x} was unmapped while its page was on its way", range.start + done);
      done += kPageSize;
    }
  }
  host_.wake(range);
}

void Migrator::put_copy_back(std::uint64_t address, std::uint64_t staging) noexcept {
  PageMask present;
  if (space_.present_pages({staging, kPageSize}, &present) != 0 || present.none()) return;  // it was a hole
  for (;;) {
    const int error = host_.copy({address, kPageSize}, staging, Userfaultfd::Wake::kNo).error;
    if (!passes(error)) break;
    events_.read_pending();
    pause_briefly();
  }
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
  const int error = discard(range);
  if (passes(error)) return kTryAgain;  // ENOMEM also means: unmapped, its event is on the way
  if (error != 0) {
    log_warning("the application's copy of {:#x} cannot be dropped: error {}", range.start, -error);
    return failed(FaultKind::kUnmappable);
  }
  block.duplicated_to_device(device.index, run);
  return kServed;
}

// Drops the application's pages of `range`, which no event that was read touches. 0; -EAGAIN: they may be somebody
// else's by now, or will be; or -errno.
int Migrator::discard(Range range) noexcept {
  events_.begin_operation(HostEvent::Kind::kRemove, range, {0, 0});
  const int error = agent_.discard(range, events_, host_);
  events_.end_operation(agent_.made_call());
  return error == -ENOENT ? -EAGAIN : error;
}

Verdict Migrator::take_snapshot(AttachedDevice& device, Block& block, unsigned page,
                                const MappingInfo& mapping) noexcept {
  if (!mapping.readable()) return failed(FaultKind::kInvalidAddress);
  // A few pages around, as a file is read; just the one if they cannot all be read.
  PageRun around = block.pages(mapping.range);
  unsigned first = std::max(page & ~(kSnapshotPages - 1), around.first);
  unsigned end = std::min((page & ~(kSnapshotPages - 1)) + kSnapshotPages, around.end());
  PageMask wanted =
      PageMask({first, end - first}) & ~block.needs_tracking() & ~block.snapshot(device.index) & ~block.registered();
  wanted.set(page);
  PageRun run{page, 1};
  while (run.first > first && wanted.test(run.first - 1)) --run.first;
  run.count = wanted.find_clear(page) - run.first;
  const Outcome room = make_room(device, run.count * kPageSize, block);
  if (room != Outcome::kDone) {
    blocks_.remove_if_empty(block);
    return room == Outcome::kAgain ? kTryAgain : failed(FaultKind::kOutOfMemory);
  }
  int error = space_.read(block.range(run).start, bounce_, block.range(run).size);
  if (error != 0) {
    run = {page, 1};
    error = read_or_zeros(block.range(run), mapping);
  }
  Range range = block.range(run);
  if (error != 0) {
    blocks_.remove_if_empty(block);
    log_warning("{:#x} cannot be read: error {}", range.start, -error);
    return failed(FaultKind::kUnmappable);
  }
  if (on_device([&] { return device->copy_in(range, bounce_); }) != 0) {
    on_device([&] { return device->unmap(range); });
    blocks_.remove_if_empty(block);
    return failed(FaultKind::kOutOfMemory);
  }
  block.host_to_snapshot(device.index, run);
  counters_.add(&Statistics::snapshot_pages, run.count);
  note(device, range, hms::Action::kDuplicate, Live::To::kDevice, hms::Reason::kImmovable);
  snapshot_blocks_.push_back(block.base());
  has_snapshots_.store(true, std::memory_order_release);
  grant(device, range, Access::kRead);
  return kServed;
}

// One page into bounce_. A page that the host never touched holds zeros, but reading it would be a fault for this very
// thread if its range is registered.
int Migrator::read_or_zeros(Range page, const MappingInfo& mapping) noexcept {
  int error = space_.read(page.start, bounce_, kPageSize);
  PageMask present;
  if (error == 0 || !mapping.anonymous || mapping.shared || space_.present_pages(page, &present) != 0 ||
      present.any()) {
    return error;
  }
  __builtin_memset(bounce_, 0, kPageSize);
  return 0;
}

void Migrator::drop_snapshots(Block& block, const PageMask& pages) noexcept {
  for (AttachedDevice& device : devices_) drop_snapshots(device, block, pages);
}

void Migrator::drop_snapshots(AttachedDevice& device, Block& block, const PageMask& pages) noexcept {
  const PageMask copies = block.snapshot(device.index) & pages;
  for (PageRun run = copies.next_run(0); run.count != 0; run = copies.next_run(run.end())) {
    on_device([&] { return device->unmap(block.range(run)); });
    block.snapshot_to_host(device.index, run);
  }
}

void Migrator::drop_snapshots() noexcept {
  for (std::uint64_t base : snapshot_blocks_) {
    Block* block = blocks_.find(base);
    if (block == nullptr) continue;
    drop_snapshots(*block, PageMask::all());
    blocks_.remove_if_empty(*block);
  }
  snapshot_blocks_.clear();
  has_snapshots_.store(false, std::memory_order_release);
}

}  // namespace mirrorcl::mirror
