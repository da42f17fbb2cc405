// SPDX-License-Identifier: Apache-2.0
// Faults of the application: pages come home from the device, or show zeros.
#include <errno.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/log.h"
#include "mirror/insist.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {
Outcome Migrator::serve_host(const HostFault& fault) noexcept {
  requester_ = kHostSide;
  kernel_node_ = nodes_.allocation_of(fault.thread);
  cause_ = {hms::live::kHostThreads, fault.write ? hms::Access::kWrite : hms::Access::kRead, hms::Reason::kOnlyWay};
  Block* block = blocks_.find(fault.address);
  unsigned page = page_in_block(fault.address);
  Range range{fault.address, kPageSize};
  if (block == nullptr || !block->registered(page)) return show_zeros(block, fault);
  switch (block->state(page)) {
    case PageState::kCoherent:
      return serve_coherent(holder(*block, page), fault);
    case PageState::kDevice:
      if (wants_to_share(*block, page)) {
        Outcome outcome = make_coherent(holder(*block, page), *block, page);
        if (outcome != Outcome::kFailed) return outcome;
        if (block->state(page) != PageState::kDevice) return Outcome::kAgain;
      }
      return rests(*block) ? Outcome::kAgain : bring_region_home(*block, page);
    case PageState::kDuplicated:
      if (!fault.write_protected) {
        PageMask there;
        if (space_.present_pages(range, &there) == 0 && there.any()) {
          // It has come with another thread's fault since this one was read.
          host_.wake(range);
          return Outcome::kDone;
        }
        // The application's copy has gone without our knowing; the device's is as good.
        block->duplicated_to_device(holder(*block, page).index, {page, 1});
        cause_.access = hms::Access::kWrite;  // a copy would go the same way
        decide(*block, page);
        return bring_region_home(*block, page);
      }
      if (wants_to_share(*block, page)) {
        Outcome outcome = make_coherent(holder(*block, page), *block, page);
        if (outcome != Outcome::kFailed) return outcome;
      }
      // The failed attempt may have taken the application's copy away.
      if (block->state(page) == PageState::kDevice) return bring_region_home(*block, page);
      block->writes_expected = kWritesExpected;
      return end_duplication_on_device(*block, page);
    case PageState::kHost:
    case PageState::kSnapshot:
      if (!fault.write_protected) return show_zeros(block, fault);
      // Left over from a copy under protection that has ended since.
      if (host_.write_protect(range, false) == -EAGAIN) return Outcome::kAgain;
      host_.wake(range);
      return Outcome::kDone;
  }
  return Outcome::kFailed;
}

// A missing page that no device has: the application's first touch, which the kernel would have served if the range
// were not registered.
Outcome Migrator::show_zeros(Block* block, const HostFault& fault) noexcept {
  Range range{fault.address, kPageSize};
  unsigned page = page_in_block(fault.address);
  // Something else, which must be watched, may have been moved there.
  if (host_.events_on_their_way()) return Outcome::kAgain;
  if (block == nullptr || !block->registered(page)) {
    if (const Outcome outcome = take_back_grown(fault.address); outcome != Outcome::kFailed) return outcome;
    stop_unknown_tracking(block, fault.address);
    return Outcome::kDone;
  }
  block->clear_discarding({page, 1});
  if (block->discarding().any() && !discard_is_recent(*block)) block->clear_discarding({0, kBlockPages});
  if (block->needs_tracking().none() && block->discarding().none()) {
    // No device owns anything here any more: let the kernel serve first touches itself.
    stop_tracking({&block, 1}, block->range());
    host_.wake(range);
    blocks_.remove_if_empty(*block);
    return Outcome::kDone;
  }
  int error;
  const OnNode node(kernel_node_);
  if (fault.write) {
    // A page of its own at once; the shared zero page would only fault again.
    auto* zeros = static_cast<char*>(__builtin_assume_aligned(bounce_, kPageSize));
    __builtin_memset(zeros, 0, kPageSize);
    error = host_.copy(range, reinterpret_cast<std::uint64_t>(zeros), Userfaultfd::Wake::kYes).error;
  } else {
    error = host_.zero(range).error;
  }
  if (error == -EAGAIN) return Outcome::kAgain;
  if (error != 0) host_.wake(range);  // EEXIST: served meanwhile; ENOENT: not ours any more, the access is tried again
  return Outcome::kDone;
}

// Registered for the kernel, but not for us: a mapping that grew by mremap inherits the registration beyond what we
// asked for, and some ranges cannot be unregistered as a whole. As much as lies in one mapping, and at least this page.
void Migrator::stop_unknown_tracking(const Block* block, std::uint64_t address) noexcept {
  Range page{page_down(address), kPageSize};
  std::uint64_t first = block_down(address);
  std::uint64_t end = first + kBlockSize;
  if (auto mapping = space_.query(address)) {
    first = std::max(first, mapping->range.start);
    end = std::min(end, mapping->range.end());
  }
  if (block != nullptr) {
    unsigned at = page_in_block(address);
    unsigned lowest = at;
    while (lowest > 0 && !block->registered(lowest - 1)) --lowest;
    first = std::max(first, block->base() + lowest * kPageSize);
    end = std::min(end, block->base() + block->registered().find_set(at) * kPageSize);
  }
  if (host_.unregister_range({first, end - first}) != 0) host_.unregister_range(page);
  policies_.watch({first, end - first});
  host_.wake(page);
}

// What of `range` lies in `blocks`, in ascending order, is the kernel's alone from now on.
void Migrator::stop_tracking(std::span<Block* const> blocks, Range range) noexcept {
  // Nobody who waits for events may miss what is unmapped between the two registrations.
  const bool waits_for_us = policies_.follows() && events_.unsettle();
  // Each call makes every CPU forget mappings: as few as can be.
  Range together{0, 0};
  const auto unregister = [&] {
    if (together.size == 0) return;
    const int error = host_.unregister_range(together);
    // ENOMEM and EINVAL: some of it has been unmapped meanwhile, its event is on the way.
    for (std::uint64_t at = together.start; error != 0 && blocks.size() > 1 && at < together.end();) {
      const std::uint64_t end = std::min(block_down(at) + kBlockSize, together.end());
      (void)host_.unregister_range({at, end - at});
      at = end;
    }
    if (error != 0) log_debug("{:#x} could not be unregistered: error {}", together.start, -error);
    watch_.remove(together);
    policies_.watch(together);
  };
  for (Block* block : blocks) {
    const PageMask tracked = block->registered() & PageMask(block->pages(range));
    for (PageRun run = tracked.next_run(0); run.count != 0; run = tracked.next_run(run.end())) {
      const Range part = block->range(run);
      block->mark_unregistered(run);
      if (part.start == together.end()) {
        together.size += part.size;
        continue;
      }
      unregister();
      together = part;
    }
  }
  unregister();
  if (waits_for_us) events_.settle();
}

Outcome Migrator::bring_region_home(Block& block, unsigned page) noexcept {
  AttachedDevice& device = holder(block, page);
  const PageMask& away = block.device(device.index);
  note_bulk_read(block);
  PageMask wanted = PageMask(decided_region(page)) & away;
  const Leave leave = decision_.action == hms::Action::kDuplicate ? Leave::kCopy : Leave::kNothing;
  PageRun own{page, 1};
  while (own.first > 0 && wanted.test(own.first - 1)) --own.first;
  own.count = wanted.find_clear(page) - own.first;
  const Outcome outcome = move_out(device, block, own, page, leave);
  if (away.test(page)) return outcome == Outcome::kDone ? Outcome::kAgain : outcome;
  wanted.clear(own);
  for (PageRun run = wanted.next_run(0); run.count != 0; run = wanted.next_run(run.end())) {
    if (move_out(device, block, run, run.first, leave) != Outcome::kDone) break;
  }
  return Outcome::kDone;
}

// Copies device memory to missing pages of the application without waking anybody, and frees it unless the device keeps
// copies. Runs in the copy threads too.
void Migrator::copy_home(AttachedDevice& device, const Block& block, PageRun run, Leave leave,
                         Homecoming* result) noexcept {
  copy_contents_home(device, block, run, leave, result);
  if (leave == Leave::kCopy) return;
  // Freeing takes as long as copying. Here another part is copied meanwhile.
  // Only pages of `run` are looked at: other threads note those of other parts at the same time.
  PageMask done;
  for (unsigned page = run.first; page < run.end(); ++page) {
    if (result->arrived.test(page) || result->skipped.test(page)) done.set(page);
  }
  for (PageRun part = done.next_run(run.first); part.count != 0; part = done.next_run(part.end())) {
    if (device->vacate(block.range(part)) == 0) result->unmapped.set(part);
  }
}

void Migrator::copy_contents_home(AttachedDevice& device, const Block& block, PageRun run, Leave leave,
                                  Homecoming* result) noexcept {
  char* const contents = bounce_ + run.first * kPageSize;
  if (int error = device->copy_out(block.range(run), contents); error != 0) {
    if (error != -EAGAIN) result->failed.store(true, std::memory_order_relaxed);
    return;
  }
  const OnNode node(result->node);
  bool page_by_page = false;
  for (unsigned page = run.first; page < run.end();) {
    const PageRun rest{page, page_by_page ? 1 : run.end() - page};
    const auto source = reinterpret_cast<std::uint64_t>(contents) + (page - run.first) * kPageSize;
    const auto progress = host_.copy(block.range(rest), source, Userfaultfd::Wake::kNo, leave == Leave::kCopy);
    const auto done = static_cast<unsigned>(progress.done / kPageSize);
    result->arrived.set(PageRun{page, done});
    page += done;
    if (progress.error == 0) continue;
    if (progress.error == -ENOMEM) result->no_memory.store(true, std::memory_order_relaxed);
    if (passes(progress.error)) return;
    if (progress.error == -ENOENT && rest.count > 1) {
      page_by_page = true;  // the run crosses into another mapping, and is refused as a whole
      continue;
    }
    if (progress.error != -EEXIST && progress.error != -ENOENT) {
      log_warning("the application cannot take {:#x} back: error {}", block.range(rest).start, -progress.error);
      result->failed.store(true, std::memory_order_relaxed);
      return;
    }
    // EEXIST: the host has a page there; it is newer than ours. ENOENT: the mapping is gone, its event is on the way.
    result->skipped.set(page++);
  }
}

// A whole block, into memory that is there already, which is then moved to the application: as one huge page if it went
// as one. What does not arrive so comes page by page.
void Migrator::fill_and_move_home(AttachedDevice& device, Block& block, unsigned urgent, Homecoming* result) noexcept {
  const bool huge = std::exchange(block.was_huge, false);
  if (nodes_.has_policy(block.base())) return;  // which only pages heed that are allocated there
  const OnNode node(result->node);
  std::uint64_t staging = staging_.take_spare(huge ? Staging::Kind::kHugePage : Staging::Kind::kSmallPages);
  if (staging == 0 && huge) staging = staging_.take_huge(space_);
  if (staging == 0) return;
  const auto move = [&](PageRun part) {
    const Range target = block.range(part);
    const Progress progress = host_.move(target.start, {staging + part.first * kPageSize, target.size}, false);
    const PageRun moved{part.first, static_cast<unsigned>(progress.done / kPageSize)};
    result->arrived.set(moved);
    if (moved.count != 0 && device->vacate(block.range(moved)) == 0) result->unmapped.set(moved);
    return progress.error;
  };
  // Each move makes every CPU forget mappings. Small pages of the device are freed meanwhile, which takes longer.
  const bool at_once = huge || (block.large_on & device.set()) != 0;
  std::atomic<bool> failed{false};
  const auto fill = [&](PageRun part) {
    const auto destination = reinterpret_cast<void*>(staging + part.first * kPageSize);
    if (device->copy_out(block.range(part), destination) != 0)
      failed.store(true, std::memory_order_relaxed);
    else if (!at_once)
      (void)move(part);
  };
  constexpr PageRun kAll{0, kBlockPages};
  copy_in_parts(device->capabilities().parallel_copies, kAll, urgent, fill);
  // Events that are on their way come first, then it is tried again.
  if (!at_once || failed.load(std::memory_order_relaxed)) return;
  const bool again = passes(move(kAll));
  block.was_huge = again && huge;
  result->huge = !again && huge;
}

// What comes and goes in small pages is put together when there is time for that. Not where an access of the
// application brings it home: the kernel allocates a table of small pages before it tells of the access, where it makes
// no huge pages by itself, and a huge page that comes home is split for that.
void Migrator::note_whole_return(Block& block, const Homecoming& home) noexcept {
  const bool unasked = cause_.reason != hms::Reason::kAsked && cause_.reason != hms::Reason::kEvicted;
  if (home.huge || unasked || !host_.can_move() || nodes_.has_policy(block.base())) {
    block.was_whole = false;
  } else if (std::exchange(block.was_whole, true)) {
    collapser_.note(block.base());
  }
}

void Migrator::collapse_next() noexcept {
  const std::uint64_t base = collapser_.take();
  const Block* block = blocks_.find(base);
  const bool at_home = block != nullptr && block->registered() == PageMask::all() && block->in_device_memory().none() &&
                       block->discarding().none();
  if (at_home) collapser_.collapse(base);
}

// Brings the device pages of `run` home as far as events allow; what does not come stays with the device.
Outcome Migrator::move_out(AttachedDevice& device, Block& block, PageRun run, unsigned urgent, Leave leave) noexcept {
  // Read while the host agent worked, and not applied yet: the kernel refuses nothing for it any more.
  if (events_.pending_on(block.range(run))) return Outcome::kAgain;
  if (leave == Leave::kNothing) drop_other_copies(device, block, PageMask(run));
  // Device writers wait from here until the pages have left; their faults are served afterwards.
  if (on_device([&] { return device->protect(block.range(run), Access::kRead); }) != 0) return Outcome::kAgain;
  Homecoming home;
  home.node = landing_node(block);
  const auto copy = [&](PageRun part) { copy_home(device, block, part, leave, &home); };
  if (run.count == kBlockPages && leave == Leave::kNothing) fill_and_move_home(device, block, urgent, &home);
  if (home.arrived.none()) copy_in_parts(device->capabilities().parallel_copies, run, urgent, copy);
  const PageMask away = PageMask(run) & ~home.arrived & ~home.skipped;
  const PageMask copied = home.arrived;
  const PageMask left_device = leave == Leave::kCopy ? home.skipped : home.arrived | home.skipped;
  for (PageRun done = left_device.next_run(0); done.count != 0; done = left_device.next_run(done.end())) {
    drop_other_copies(device, block, PageMask(done));
    if (!home.unmapped.all_of(done)) on_device([&] { return device->vacate(block.range(done)); });
    block.device_to_host(device.index, done);
  }
  for (PageRun done = copied.next_run(0); done.count != 0; done = copied.next_run(done.end())) {
    if (leave == Leave::kCopy) block.device_to_duplicated(device.index, done);
    counters_.add(&Statistics::pages_to_host, done.count);
    counters_.add(&Statistics::bytes_to_host, done.count * kPageSize);
    if (leave == Leave::kCopy) counters_.add(&Statistics::pages_duplicated, done.count);
    live_.note_migration(Live::To::kHost, done.count, done.count * kPageSize);
    note(device, block.range(done), leave == Leave::kCopy ? hms::Action::kDuplicate : hms::Action::kMove,
         Live::To::kHost, cause_.reason);
  }
  const PageMask done = home.arrived | home.skipped;
  for (PageRun part = done.next_run(0); part.count != 0; part = done.next_run(part.end())) {
    blocks_.returns_of(block).note(part, to_ms(now_ns()), options_.coherent_window_ms);
    host_.wake(block.range(part));
  }
  if (done.any()) block.came_home_ns = now_ns();
  if (leave == Leave::kNothing && copied == PageMask::all()) note_whole_return(block, home);
  if (away.none()) return Outcome::kDone;
  lift_protection(device, block, away);
  if (home.failed.load(std::memory_order_relaxed)) {
    log_error("device memory at {:#x} cannot be read", block.range(run).start);
    return Outcome::kFailed;
  }
  if (home.no_memory.load(std::memory_order_relaxed)) staging_.free_spares();
  counters_.add(&Statistics::retries);
  return Outcome::kAgain;
}

Outcome Migrator::bring_home(Range range, DeviceSet devices, Tracking tracking) noexcept {
  Outcome result = Outcome::kDone;
  blocks_.for_each(range, [&](Block& block) {
    const PageMask wanted(block.pages(range));
    for (AttachedDevice& device : devices_) {
      if ((devices & device.set()) != 0 && result == Outcome::kDone) result = bring_home_from(device, block, wanted);
    }
  });
  if (result != Outcome::kDone) return result;
  if (tracking == Tracking::kEnd) end_tracking(range);
  if (tracking == Tracking::kEndAtRest) {
    if (at_home_.size() == at_home_.capacity()) end_tracking_at_home();
    at_home_.push_back(range);
  }
  return take_back_suspects();
}

void Migrator::end_tracking_at_home() noexcept {
  for (const Range& range : at_home_) end_tracking(range);
  at_home_.clear();
}

// Of the blocks in `range` whose pages there are all at home.
void Migrator::end_tracking(Range range) noexcept {
  std::array<Block*, 64> blocks;
  std::size_t count = 0;
  const auto end = [&] { end_tracking(std::span(blocks).first(std::exchange(count, 0)), range); };
  blocks_.for_each(range, [&](Block& block) {
    blocks[count++] = &block;
    if (count == blocks.size()) end();
  });
  end();
}

void Migrator::end_tracking(std::span<Block*> blocks, Range range) noexcept {
  const auto is_away = [&](const Block* block) {
    return (block->needs_tracking() & PageMask(block->pages(range))).any();
  };
  blocks = {blocks.begin(), std::remove_if(blocks.begin(), blocks.end(), is_away)};
  if (!blocks.empty() && !host_.events_on_their_way()) stop_tracking(blocks, range);
  for (Block* block : blocks) blocks_.remove_if_empty(*block);
}

Outcome Migrator::bring_home_from(AttachedDevice& device, Block& block, const PageMask& wanted) noexcept {
  Outcome result = Outcome::kDone;
  const PageMask shared = block.coherent(device.index) & wanted;
  for (PageRun run = shared.next_run(0); run.count != 0 && result == Outcome::kDone; run = shared.next_run(run.end())) {
    result = end_coherence(device, block, run);
  }
  const PageMask away = block.device(device.index) & wanted;
  for (PageRun run = away.next_run(0); run.count != 0 && result == Outcome::kDone; run = away.next_run(run.end())) {
    result = move_out(device, block, run, run.first, Leave::kNothing);
  }
  if (result == Outcome::kDone) result = drop_device_copies(block, wanted, device.set());
  if (result == Outcome::kDone) drop_snapshots(device, block, wanted);
  return result;
}

}  // namespace mirrorcl::mirror
