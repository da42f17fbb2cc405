// SPDX-License-Identifier: Apache-2.0
// Faults of the application: pages come home from the device, or show zeros.
#include <errno.h>

#include "base/log.h"
#include "mirror/insist.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {
namespace {

// From here on mapping device memory costs less than copying it twice.
constexpr unsigned kViewPages = 16;

constexpr std::uint64_t kMinimumStayNs = 200'000;

}  // namespace

Outcome Migrator::serve_host(const HostFault& fault) noexcept {
  Block* block = blocks_.find(fault.address);
  unsigned page = page_in_block(fault.address);
  Range range{fault.address, kPageSize};
  if (block == nullptr || !block->registered(page)) return show_zeros(block, fault);
  switch (block->state(page)) {
    case PageState::kCoherent:
      return serve_coherent(*block, fault);
    case PageState::kDevice:
      if (wants_coherence(*block, page)) {
        Outcome outcome = make_coherent(*block, page);
        if (outcome != Outcome::kFailed) return outcome;
      }
      // A page that goes back and forth and cannot become coherent stays with the device long enough for the access it
      // came for, or a busy host thread would take it away each time before the device has woken.
      if (block->returns != nullptr && block->stays_private().test(page) &&
          now_ns() - block->granted_ns < kMinimumStayNs) {
        return Outcome::kAgain;
      }
      return bring_region_home(*block, page);
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
  if (block == nullptr || !block->registered(page)) {
    stop_unknown_tracking(block, fault.address);
    return Outcome::kDone;
  }
  block->clear_discarding({page, 1});
  if (block->discarding().any() && !discard_is_recent(*block)) block->clear_discarding({0, kBlockPages});
  if (block->device().none() && block->coherent().none() && block->discarding().none()) {
    // No device owns anything here any more: let the kernel serve first touches itself.
    stop_tracking(*block, block->range());
    host_.wake(range);
    blocks_.remove_if_empty(*block);
    return Outcome::kDone;
  }
  int error;
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
  host_.wake(page);
}

bool Migrator::stop_tracking(Block& block, Range range) noexcept {
  PageMask tracked = block.registered() & PageMask(block.pages(range));
  for (PageRun run = tracked.next_run(0); run.count != 0; run = tracked.next_run(run.end())) {
    int error = host_.unregister_range(block.range(run));
    // ENOMEM and EINVAL: unmapped meanwhile, its event is on the way.
    if (error != 0) log_debug("{:#x} could not be unregistered: error {}", block.range(run).start, -error);
    block.mark_unregistered(run);
    watch_.remove(block.range(run));
  }
  return true;
}

Outcome Migrator::bring_region_home(Block& block, unsigned page) noexcept {
  PageRun region = dense_region(page, block.returned() & block.on_host(),
                                block.device() | (block.returned() & block.on_host()), options_.density_percent);
  if (region.count < kBlockPages) {
    // A stream: the block beside this one has come home entirely.
    for (std::uint64_t neighbour : {block.base() - kBlockSize, block.base() + kBlockSize}) {
      const Block* other = blocks_.find(neighbour);
      if (other != nullptr && other->device().none() && other->returned() == PageMask::all()) region = {0, kBlockPages};
    }
  }
  PageMask wanted = PageMask(region) & block.device();
  PageRun own{page, 1};
  while (own.first > 0 && wanted.test(own.first - 1)) --own.first;
  own.count = wanted.find_clear(page) - own.first;
  Outcome outcome = move_out(block, own, page);
  if (block.device().test(page)) return outcome == Outcome::kDone ? Outcome::kAgain : outcome;
  wanted.clear(own);
  for (PageRun run = wanted.next_run(0); run.count != 0; run = wanted.next_run(run.end())) {
    if (move_out(block, run, run.first) != Outcome::kDone) break;
  }
  return Outcome::kDone;
}

// Copies `source` to missing pages of the application without waking anybody. Pages that need none are skipped, and
// count as done.
Progress Migrator::copy_home(Range range, const char* source) noexcept {
  std::uint64_t done = 0;
  for (bool page_by_page = false; done < range.size;) {
    const std::uint64_t size = page_by_page ? kPageSize : range.size - done;
    const auto progress =
        host_.copy({range.start + done, size}, reinterpret_cast<std::uint64_t>(source) + done, Userfaultfd::Wake::kNo);
    done += progress.done;
    if (progress.error == 0) continue;
    if (passes(progress.error)) return {done, -EAGAIN};
    if (progress.error == -ENOENT && size > kPageSize) {
      page_by_page = true;  // the range crosses into another mapping, and is refused as a whole
      continue;
    }
    // EEXIST: the host has a page there; it is newer than ours. Anything else: the mapping is gone, its event is on the
    // way.
    if (progress.error != -EEXIST) log_debug("{:#x} cannot come home: error {}", range.start + done, -progress.error);
    done += kPageSize;
  }
  return {range.size, 0};
}

// Brings the device pages of `run` home as far as events allow; what does not come stays with the device.
Outcome Migrator::move_out(Block& block, PageRun run, unsigned urgent) noexcept {
  const Range whole = block.range(run);
  // Device writers wait from here until the pages have left; their faults are served afterwards.
  if (on_device([&] { return device_->protect(whole, Access::kRead); }) != 0) return Outcome::kAgain;
  const auto* source = run.count >= kViewPages ? static_cast<const char*>(view(whole)) : nullptr;
  if (source == nullptr) {
    if (int error = on_device([&] { return device_->copy_out(whole, bounce_); }); error != 0) {
      log_error("device memory at {:#x} cannot be read: error {}", whole.start, -error);
      return Outcome::kFailed;
    }
    source = bounce_;
  }

  PageMask home;
  copy_in_parts(run, urgent, [&](PageRun part) {
    const Progress progress = copy_home(block.range(part), source + (part.first - run.first) * kPageSize);
    home.set(PageRun{part.first, static_cast<unsigned>(progress.done / kPageSize)});
  });
  for (PageRun done = home.next_run(0); done.count != 0; done = home.next_run(done.end())) {
    on_device([&] { return device_->unmap(block.range(done)); });
    block.device_to_host(done);
    if (device_->capabilities().memory_cpu_mappable) {
      blocks_.returns_of(block).note(done, to_ms(now_ns()), options_.coherent_window_ms);
    }
    counters_.add(&Statistics::pages_to_host, done.count);
    counters_.add(&Statistics::bytes_to_host, done.count * kPageSize);
    host_.wake(block.range(done));
  }
  const PageMask left = PageMask(run) & ~home;
  if (left.none()) return Outcome::kDone;
  counters_.add(&Statistics::retries);
  for (PageRun rest = left.next_run(0); rest.count != 0; rest = left.next_run(rest.end())) {
    on_device([&] { return device_->protect(block.range(rest), Access::kReadWrite); });
  }
  return Outcome::kAgain;
}

Outcome Migrator::bring_home(Range range) noexcept {
  Outcome result = Outcome::kDone;
  blocks_.for_each(range, [&](Block& block) {
    PageMask wanted(block.pages(range));
    PageMask shared = block.coherent() & wanted;
    for (PageRun run = shared.next_run(0); run.count != 0 && result == Outcome::kDone;
         run = shared.next_run(run.end())) {
      result = end_coherence(block, run);
    }
    PageMask away = block.device() & wanted;
    for (PageRun run = away.next_run(0); run.count != 0 && result == Outcome::kDone; run = away.next_run(run.end())) {
      result = move_out(block, run, run.first);
    }
    if (result != Outcome::kDone) return;
    PageMask copies = block.snapshot() & wanted;
    for (PageRun run = copies.next_run(0); run.count != 0; run = copies.next_run(run.end())) drop_snapshot(block, run);
    stop_tracking(block, range);
    blocks_.remove_if_empty(block);
  });
  return result;
}

}  // namespace mirrorcl::mirror
