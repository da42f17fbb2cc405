// SPDX-License-Identifier: Apache-2.0
// Faults of the application: pages come home from the device, or show zeros.
#include <errno.h>

#include "base/log.h"
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
  if (block == nullptr) {
    // A mapping that grew by mremap inherits the registration beyond what we asked for.
    PageRun all{0, kBlockPages};
    host_.unregister_range({block_down(fault.address), all.count * kPageSize});
    host_.wake(range);
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

bool Migrator::stop_tracking(Block& block, Range range) noexcept {
  PageMask tracked = block.registered() & PageMask(block.pages(range));
  for (PageRun run = tracked.next_run(0); run.count != 0; run = tracked.next_run(run.end())) {
    int error = host_.unregister_range(block.range(run));
    // ENOMEM and EINVAL: unmapped meanwhile, its event is on the way.
    if (error != 0) log_debug("{:#x} could not be unregistered: error {}", block.range(run).start, -error);
    block.mark_unregistered(run);
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
  Outcome outcome = move_out(block, own);
  if (block.device().test(page)) return outcome == Outcome::kDone ? Outcome::kAgain : outcome;
  wanted.clear(own);
  for (PageRun run = wanted.next_run(0); run.count != 0; run = wanted.next_run(run.end())) {
    if (move_out(block, run) != Outcome::kDone) break;
  }
  return Outcome::kDone;
}

// Brings the device pages of `run` home as far as events allow; what does not come stays with the device.
Outcome Migrator::move_out(Block& block, PageRun run) noexcept {
  Range whole = block.range(run);
  // Device writers wait from here until the pages have left; their faults are served afterwards.
  on_device([&] { return device_->protect(whole, Access::kRead); });
  const void* source = run.count >= kViewPages ? view(whole) : nullptr;
  if (source == nullptr) {
    if (int error = on_device([&] { return device_->copy_out(whole, bounce_); }); error != 0) {
      log_error("device memory at {:#x} cannot be read: error {}", whole.start, -error);
      return Outcome::kFailed;
    }
    source = bounce_;
  }

  unsigned home = 0;  // pages of the run
  std::uint64_t copied = 0;
  Outcome outcome = Outcome::kDone;
  while (home < run.count) {
    Range rest = block.range(PageRun{run.first + home, run.count - home});
    auto progress =
        host_.copy(rest, reinterpret_cast<std::uint64_t>(source) + home * kPageSize, Userfaultfd::Wake::kNo);
    home += static_cast<unsigned>(progress.done / kPageSize);
    copied += progress.done;
    if (progress.error == 0) break;
    if (progress.error == -EAGAIN) {
      counters_.add(&Statistics::retries);
      outcome = Outcome::kAgain;
      break;
    }
    Range page = block.range(PageRun{run.first + home, 1});
    if (progress.error == -ENOENT && progress.done == 0 && rest.size > kPageSize) {
      // The run crosses into another mapping, which is refused as a whole: this page on its own.
      progress = host_.copy(page, reinterpret_cast<std::uint64_t>(source) + home * kPageSize, Userfaultfd::Wake::kNo);
      if (progress.error == 0) {
        ++home;
        copied += kPageSize;
        continue;
      }
      if (progress.error == -EAGAIN) {
        outcome = Outcome::kAgain;
        break;
      }
    }
    // EEXIST: the host has a page there; it is newer than ours. Anything else: the mapping is gone, its event is on the
    // way.
    if (progress.error != -EEXIST) log_debug("{:#x} cannot come home: error {}", page.start, -progress.error);
    ++home;
  }
  if (home != 0) {
    PageRun done{run.first, home};
    on_device([&] { return device_->unmap(block.range(done)); });
    block.device_to_host(done);
    if (device_->capabilities().memory_cpu_mappable) {
      blocks_.returns_of(block).note(done, to_ms(now_ns()), options_.coherent_window_ms);
    }
    counters_.add(&Statistics::pages_to_host, copied / kPageSize);
    counters_.add(&Statistics::bytes_to_host, copied);
    host_.wake(block.range(done));
  }
  if (home < run.count) {
    PageRun left{run.first + home, run.count - home};
    on_device([&] { return device_->protect(block.range(left), Access::kReadWrite); });
  }
  return outcome;
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
      result = move_out(block, run);
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
