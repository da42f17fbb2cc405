// SPDX-License-Identifier: Apache-2.0
// Pages that go back and forth become coherent: the application maps device memory in their place, or application and
// device both map pinned host memory (shared_memory.h), and both sides run at memory speed with real atomics.
#include <errno.h>
#include <sys/mman.h>

#include "base/log.h"
#include "mirror/insist.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

namespace {

// Whether the page with these contents, at `page_address`, holds the control block of a thread. x86-64's ABI: that
// begins with its own address and has it again as its third word.
bool holds_thread_control_block(const std::uint64_t* words, std::uint64_t page_address) {
  for (std::uint64_t offset = 0; offset < kPageSize; offset += 64) {
    const std::uint64_t* block = words + offset / sizeof(std::uint64_t);
    if (block[0] == page_address + offset && block[2] == page_address + offset) return true;
  }
  return false;
}

}  // namespace

// Makes `page` coherent, and the dense region of pages around it that also go back and forth, or for which the program
// has asked for it too. kFailed: not this page; migrate it.
Outcome Migrator::make_coherent(AttachedDevice& device, Block& block, unsigned page) noexcept {
  if (coherent_mappings_ >= coherent_mappings_limit_) {
    if (!told_coherent_limit_) {
      told_coherent_limit_ = true;
      log_warning(
          "{} runs of pages are coherent, as many as vm.max_map_count leaves room for; further pages migrate back "
          "and forth (raise vm.max_map_count to change this)",
          coherent_mappings_);
    }
    return Outcome::kFailed;
  }
  const PageMask together =
      decision_.reason == hms::Reason::kBackAndForth
          ? block.returns->bouncing(to_ms(now_ns()), options_.coherent_window_ms, options_.coherent_after_returns)
          : PageMask(decided_region(page)) & PageMask(block.pages(placement_.policy_range()));
  const PageRun region = dense_region(page, together, block.registered(), options_.density_percent);
  auto mapping = space_.query(block.base() + page * kPageSize);
  if (!mapping || !mapping->migratable()) return Outcome::kFailed;
  PageMask wanted = PageMask(region) & PageMask(block.pages(mapping->range)) & block.registered() & ~block.coherent() &
                    ~block.snapshot() & ~block.discarding() & ~block.stays_private() &
                    ~churn_.recent(block.base(), now_ns());
  wanted &= ~(block.device() & ~block.device(device.index)) & ~(block.copied() & ~block.tracked(device.index));
  if (!wanted.test(page)) return Outcome::kFailed;
  // What is still with the host goes to device memory first.
  PageMask host = wanted & block.on_host();
  const Outcome room = host.any() ? make_room(device, host.count() * kPageSize, block) : Outcome::kDone;
  if (room == Outcome::kAgain) return room;
  if (room == Outcome::kFailed) {
    wanted &= ~host;
    host = {};
    if (!wanted.test(page)) return Outcome::kFailed;
  }
  drop_other_copies(device, block, wanted);
  for (PageRun run = host.next_run(0); run.count != 0; run = host.next_run(run.end())) {
    Verdict verdict = move_in(device, block, run, run.contains(page) ? page : run.first);
    if (verdict.outcome != Outcome::kDone) return verdict.outcome;
  }
  PageMask both = wanted & block.duplicated(device.index);
  for (PageRun run = both.next_run(0); run.count != 0; run = both.next_run(run.end())) {
    Verdict verdict = drop_host_copies(device, block, run);
    if (verdict.outcome != Outcome::kDone) return verdict.outcome;
  }
  wanted &= block.device(device.index);
  for (PageRun run = wanted.next_run(0); run.count != 0; run = wanted.next_run(run.end())) {
    find_thread_control_blocks(device, block, run);
  }
  leave_what_is_waited_for(block, wanted);
  wanted &= ~block.stays_private();
  for (PageRun run = wanted.next_run(0); run.count != 0; run = wanted.next_run(run.end())) {
    Outcome outcome = make_run_coherent(device, block, run);
    if (outcome == Outcome::kFailed) {
      for (unsigned i = run.first; i < run.end(); ++i) block.mark_stays_private(i);
    } else if (outcome != Outcome::kDone) {
      return block.coherent().test(page) ? Outcome::kDone : outcome;
    }
  }
  return block.coherent().test(page) ? Outcome::kDone : Outcome::kFailed;
}

// A thread that waits in pthread_join sleeps on a futex in the other's control block, filed under the address of
// private memory. Over device memory the kernel would look for it under the file instead, and the sleeper would never
// wake. Such pages migrate.
void Migrator::find_thread_control_blocks(AttachedDevice& device, Block& block, PageRun run) noexcept {
  Range range = block.range(run);
  if (on_device([&] { return device->copy_out(range, bounce_); }) != 0) return;
  const auto* words = reinterpret_cast<const std::uint64_t*>(bounce_);
  for (unsigned i = 0; i < run.count; ++i) {
    if (holds_thread_control_block(words + i * kPageSize / sizeof(std::uint64_t), range.start + i * kPageSize)) {
      block.mark_stays_private(run.first + i);
    }
  }
}

// Calls visit(address) for each futex in `range`, not a private one, that a thread of this process waits for.
template <typename Visit>
void Migrator::for_each_waiter(Range range, Visit visit) noexcept {
  const auto read = [this](std::uint64_t address, void* destination, std::uint64_t size) {
    return peek(address, destination, size);
  };
  thread_ends_.threads().for_each_blocked([&](const BlockedCall& call) {
    for_each_shared_futex(call, read, [&](std::uint64_t address) {
      if (address - range.start < range.size) visit(address);
    });
  });
}

// Who waits for a futex there is filed under private memory, too, and nobody would find him under shared memory. Pages
// of `wanted` are away from the application, so that nobody begins to wait there meanwhile.
void Migrator::leave_what_is_waited_for(Block& block, const PageMask& wanted) noexcept {
  if (wanted.none()) return;
  for_each_waiter(block.range(), [&](std::uint64_t address) {
    if (wanted.test(page_in_block(address))) block.mark_stays_private(page_in_block(address));
  });
}

// Who waits for a futex in `range`, whose shared memory the application does not map any more, is filed under that:
// looks again, and is filed under private memory then.
void Migrator::wake_waiters(AttachedDevice& device, Range range) noexcept {
  for_each_waiter(range, [&](std::uint64_t address) {
    const int error = mappings_.wake_in_file(address, shared(device).fd());
    if (error != 0) log_warning("who waits for a lock at {:#x} may wait for ever: error {}", address, -error);
  });
}

Outcome Migrator::make_run_coherent(AttachedDevice& device, Block& block, PageRun run) noexcept {
  Range range = block.range(run);
  int error = on_device([&] { return shared(device).adopt(range, bounce_); });
  if (error == 0) {
    error = mappings_.replace(range, HostAgent::Expect::kPrivate, shared(device).fd());
    // Without it the contents would be where nobody looks for them.
    if (error != 0 && insist([&] { return on_device([&] { return shared(device).release(range, bounce_); }); }) != 0) {
      log_error("device memory of {:#x} could not be had back from shared memory", range.start);
    }
  }
  if (error == -EAGAIN) return Outcome::kAgain;
  if (error != 0) {
    log_debug("{:#x} cannot be made coherent: error {}", range.start, -error);
    return Outcome::kFailed;
  }
  ++coherent_mappings_;
  forget_announced(block, run);
  block.device_to_coherent(device.index, run);
  watch(range, PROT_READ | PROT_WRITE);
  counters_.add(&Statistics::coherent_upgrades, run.count);
  const Live::To place = shared(device).on_host() ? Live::To::kHost : Live::To::kDevice;
  note(device, range, hms::Action::kShare, place, cause_.reason);
  // Spares the application a fault per page; if events stand in the way, or have been read meanwhile, it takes them.
  if (events_.pending_on(range) || host_.install(range).error != 0) host_.wake(range);
  count_replay();
  on_device([&] { return shared(device).map(range, Access::kReadWrite); });
  return Outcome::kDone;
}

Outcome Migrator::end_coherence(AttachedDevice& device, Block& block, PageRun run) noexcept {
  end_coherent_sharing(block, PageMask(run));
  for (unsigned page = run.first; page < run.end();) {
    // The application may have split the mapping with mprotect.
    auto mapping = space_.query(block.base() + page * kPageSize);
    if (!mapping) return Outcome::kAgain;
    PageRun part = block.pages(mapping->range);
    part = {page, std::min(part.end(), run.end()) - page};
    Range range = block.range(part);
    int error = mappings_.replace(range, HostAgent::Expect::kShared, HostMappings::kNothing);
    if (passes(error)) return Outcome::kAgain;
    if (error != 0) {
      log_error("coherent memory at {:#x} cannot be made private again: error {}", range.start, -error);
      return Outcome::kFailed;
    }
    wake_waiters(device, range);
    if (on_device([&] { return shared(device).release(range, bounce_); }) != 0) return Outcome::kAgain;
    coherent_mappings_ -= coherent_mappings_ > 0 ? 1 : 0;
    if (mapping->range.end() > range.end()) grown_suspects_.push_back(range.end());
    block.coherent_to_device(device.index, part);
    if (block.returns != nullptr) block.returns->forget(part);
    host_.wake(range);
    page = part.end();
  }
  return Outcome::kDone;
}

Outcome Migrator::serve_coherent(AttachedDevice& device, const HostFault& fault) noexcept {
  Range range{fault.address, kPageSize};
  (void)settle_discards();
  // It counts against the room there is, and comes even where there is none: the application waits for it.
  (void)has_room(device, kPageSize);
  // After MADV_DONTNEED there is no page: zeros.
  on_device([&] { return shared(device).zero_fill(range); });
  int error = host_.install(range).error;
  if (error == -EAGAIN) return Outcome::kAgain;
  if (error == -EFAULT) return Outcome::kAgain;  // discarded again between the two calls
  if (error != 0) host_.wake(range);
  return Outcome::kDone;
}

}  // namespace mirrorcl::mirror
