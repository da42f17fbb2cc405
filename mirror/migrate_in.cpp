// SPDX-License-Identifier: Apache-2.0
// Pages go from the application to a device.
#include <errno.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "base/log.h"
#include "mirror/insist.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

using device::FaultKind;

namespace {

constexpr std::uint64_t kPinPatienceNs = 100'000'000;

}  // namespace

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
  // Read and not applied yet: the kernel refuses nothing for it any more.
  if (events_.pending_on(source)) return {0, -EAGAIN};
  *staging = staging_.take(source.size);
  if (*staging == 0) return {0, -EINVAL};  // as if there were no MOVE
  const Progress result = take_out_to(*staging, source, skip_holes);
  if (result.done != 0 || result.error != -EINVAL) return result;
  const std::uint64_t locked = staging_.take_locked(source.size);
  if (locked == 0) return result;
  *staging = locked;
  return take_out_to(locked, source, skip_holes);
}

// The same, past holes. *complete: there was none.
Progress Migrator::take_out_past_holes(Range source, std::uint64_t* staging, bool* complete) noexcept {
  // To ask first whether there are any costs less than to look for them afterwards.
  const Progress result = take_out(source, false, staging);
  *complete = result.error == 0;
  if (result.error != -ENOENT) return result;
  const Range rest{source.start + result.done, source.size - result.done};
  const Progress more = take_out_to(*staging + result.done, rest, true);
  return {result.done + more.done, more.error};
}

// Linux 6.18 has been seen to move a page, to try again because the page tables had changed under it, and to answer
// that the destination exists (EEXIST): what lies there has been moved.
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
    bool complete = false;
    auto progress =
        rest.count == 1 ? take_out(source, false, &staging) : take_out_past_holes(source, &staging, &complete);
    PageMask present;  // relative to `page`
    if (rest.count == 1) {
      if (progress.error == 0) present.set(0U);
      if (progress.error == -ENOENT) progress = {kPageSize, 0};  // never touched: zeros
    } else if (complete) {
      present = PageMask(PageRun{0, rest.count});
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
// another try (*served = 0).
Verdict Migrator::move_in_stubborn(AttachedDevice& device, Block& block, PageRun run, int error,
                                   unsigned* served) noexcept {
  *served = 0;
  if (cause_.reason == hms::Reason::kExpected) return failed(FaultKind::kUnmappable);  // a guess: it stays
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
      thread_ends_.blocks().note(block.base() + page * kPageSize,
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
  // Counted before the device goes on, so that whoever waits for the device sees it.
  counters_.add(&Statistics::pages_to_device, contents.count());
  counters_.add(&Statistics::bytes_to_device, contents.count() * kPageSize);
  counters_.add(&Statistics::pages_zero_filled, run.count - contents.count());
  live_.note_migration(Live::To::kDevice, run.count, contents.count() * kPageSize);
  note(device, block.range(run), hms::Action::kMove, Live::To::kDevice,
       contents.none() ? hms::Reason::kFirstTouch : cause_.reason);
  if (contents == PageMask::all() && adopt_whole(device, block, staging, urgent)) return kServed;
  note_thread_blocks(block, contents, run, staging);
  if (block.in_memory_of(device.index).none()) block.large_on &= static_cast<DeviceSet>(~device.set());
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

// As above, into one large page. False: the device has none at hand, and nothing has been done.
bool Migrator::adopt_whole(AttachedDevice& device, Block& block, std::uint64_t staging, unsigned urgent) noexcept {
  auto* const memory = static_cast<char*>(device->allocate_block(block.base()));
  if (memory == nullptr) return false;
  constexpr PageRun kAll{0, kBlockPages};
  PageMask hold_thread_blocks;
  const auto copy = [&](PageRun part) {
    const std::uint64_t offset = part.first * kPageSize;
    __builtin_memcpy(memory + offset, reinterpret_cast<const void*>(staging + offset), part.count * kPageSize);
    for (unsigned page = part.first; page < part.end(); ++page) {  // looked at now that they are in the cache
      const auto* contents = reinterpret_cast<const void*>(staging + page * kPageSize);
      if (thread_ends_.blocks().is_one(block.base() + page * kPageSize, contents)) hold_thread_blocks.set(page);
    }
  };
  copy_in_parts(device->capabilities().parallel_copies, kAll, urgent, copy);
  note_thread_blocks(block, hold_thread_blocks, kAll, staging);
  if (on_device([&] { return device->map_block(block.base()); }) != 0) {
    on_device([&] { return device->unmap(block.range()); });
    return false;
  }
  block.host_to_device(device.index, kAll);
  block.large_on = device.set();
  note_grant(device, block);
  return true;
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
  PageMask present;  // relative to `run`
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
    note_thread_blocks(block, PageMask(pages), pages, reinterpret_cast<std::uint64_t>(bounce_));
    copied += part.count;
  }
  if (copied < run.count) error = on_device([&] { return device->zero_fill(range); });
  events_.read_pending();
  bool discarded = false;
  if (error == 0 && leave == Leave::kCopy) {
    error = copied == run.count && !events_.pending_on(range) ? 0 : -EAGAIN;
  } else if (error == 0 && events_.pending_on(range)) {
    error = -EAGAIN;
  } else if (error == 0 && copied != 0) {
    error = mappings_.discard(range, &discarded);
  }
  if (error != 0) {
    const PageMask lost = discarded ? lost_pages(block, run, present) : PageMask();
    for (PageRun part = lost.next_run(0); part.count != 0; part = lost.next_run(part.end())) {
      block.host_to_device(device.index, part);
      grant(device, block.range(part), Access::kReadWrite);  // nobody else will: they are where they should be
    }
    const PageMask kept = PageMask(run) & ~lost;
    for (PageRun part = kept.next_run(0); part.count != 0; part = kept.next_run(part.end())) {
      on_device([&] { return device->unmap(block.range(part)); });
    }
    return give_up(passes(error) ? kTryAgain : failed(FaultKind::kUnmappable));
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

// Of the pages of `run`, of which `present` (relative to it) were there, those that a discard which has failed has
// taken all the same. The kernel fails after the fact, for what has been unmapped meanwhile.
PageMask Migrator::lost_pages(const Block& block, PageRun run, const PageMask& present) const noexcept {
  PageMask lost;
  PageMask still_there;
  if (space_.present_pages(block.range(run), &still_there) != 0) still_there = {};
  for (unsigned i = 0; i < run.count; ++i) {
    const PageRun page{run.first + i, 1};
    // Where an event says that it is gone, or elsewhere, it is the application that has taken it.
    if (present.test(i) && !still_there.test(i) && !events_.pending_on(block.range(page))) lost.set(page);
  }
  return lost;
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

}  // namespace mirrorcl::mirror
