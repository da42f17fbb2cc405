// SPDX-License-Identifier: Apache-2.0
#include "mirror/host_mappings.h"

#include <errno.h>
#include <sys/mman.h>

#include <algorithm>

#include "base/futex.h"
#include "base/log.h"
#include "base/raw_syscall.h"
#include "device/window.h"
#include "mirror/insist.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {
namespace {

constexpr Range kScratch{window::kViews.start + 2 * kBlockSize, kBlockSize};

// Closes the hole that a move leaves in the window.
void reserve_scratch(std::uint64_t size) noexcept {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  const long address = insist([&] { return raw_syscall(SYS_mmap, kScratch.start, size, PROT_NONE, kFlags, -1, 0); });
  if (address == static_cast<long>(kScratch.start)) return;
  log_error("the window has lost {} bytes at {:#x}", size, kScratch.start);
}

}  // namespace

int HostMappings::replace(Range range, HostAgent::Expect expected, int file) noexcept {
  auto mapping = space_.query(range.start);
  if (!mapping || mapping->range.end() < range.end()) return -EAGAIN;
  int error = make_scratch(range, mapping->protection, file);
  if (error == 0) {
    // Last look: from here until the agent's call no event is read, and none that was read touches the range.
    events_.read_pending();
    if (events_.pending_on(range)) error = -EAGAIN;
  }
  bool replaced_ours = false;
  if (error == 0) {
    error = move_scratch(range, expected, {&space_, *mapping}, &replaced_ours);
    if (error == -ENOENT && (events_.pending_on(range) || host_.events_on_their_way())) error = -EAGAIN;
  }
  if (error != 0) {
    drop_scratch(range.size);
    return error == -EINTR ? -EAGAIN : error;
  }
  if (replaced_ours || file == kNothing || expected == HostAgent::Expect::kAnything) return 0;
  return take_back(range, mapping->protection);
}

// A registered mapping of as much as `range`. 0 or -errno.
int HostMappings::make_scratch(Range range, int protection, int file) noexcept {
  const Range scratch{kScratch.start, range.size};
  const bool to_share = file != kNothing;
  const int flags = MAP_FIXED | (to_share ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
  const long address =
      raw_syscall(SYS_mmap, scratch.start, scratch.size, protection, flags, file, to_share ? range.start : 0);
  if (address < 0) return static_cast<int>(address);
  return host_.register_range(scratch, to_share ? kTrackMissing | kTrackMinor : kTrackMissing | kTrackWrites);
}

void HostMappings::drop_scratch(std::uint64_t size) noexcept {
  // Unregister first: replacing a registered mapping raises an event for this thread.
  if (insist([&] { return host_.unregister_range({kScratch.start, size}); }) != 0) {
    log_error("the window has lost {} bytes at {:#x}", size, kScratch.start);
  } else {
    reserve_scratch(size);
  }
}

// 0 and whether what was expected has been replaced, or -errno and nothing has been moved.
int HostMappings::move_scratch(Range range, HostAgent::Expect expected, const HostAgent::Unchanged& unchanged,
                               bool* replaced_ours) noexcept {
  const Range scratch{kScratch.start, range.size};
  events_.begin_operation(range, scratch);
  const int error = agent_.move_mapping(scratch, range.start, expected, unchanged, events_, host_);
  *replaced_ours = events_.end_operation(agent_.made_call());
  if (error != 0) return error;
  // The move leaves a hole in the window.
  reserve_scratch(scratch.size);
  return 0;
}

// Takes the application's pages of `range`, which no event that was read touches, to the window in one step, and drops
// them. 0; -EAGAIN: they may be somebody else's by now, or will be; or -errno and they are there.
int HostMappings::throw_away(Range range) noexcept {
  // Does nothing, but fails with EBUSY if it is locked: its whole mapping would cease to be.
  const long locked = raw_syscall(SYS_msync, range.start, range.size, MS_INVALIDATE);
  if (locked == -ENOMEM) return -EAGAIN;  // unmapped
  if (locked != 0) return static_cast<int>(locked);
  const Range scratch{kScratch.start, range.size};
  events_.begin_taking(range, scratch);
  int error = agent_.take_away(range, scratch.start, events_, host_);
  const bool taken_ours = events_.end_operation(agent_.made_call());
  if (!agent_.made_call()) return error == -ENOENT ? -EAGAIN : error;
  if (error == 0 && !taken_ours) {
    log_debug("{:#x} was unmapped while its pages were taken away", range.start);
    give_back(range);
    return -EAGAIN;
  }
  if (error == 0) drop_scratch(range.size);
  if (error != 0) reserve_scratch(range.size);  // the call may have left a hole before it failed
  return error == -EFAULT ? -EAGAIN : error;    // unmapped, or in two mappings by now
}

// What has been taken from `range` was somebody else's, who has got its addresses between the agent's look and its
// call. He finds zeros until it is there again; what he has written meanwhile stays.
void HostMappings::give_back(Range range) noexcept {
  events_.read_pending();
  const Range scratch{kScratch.start, range.size};
  const auto mapping = space_.query_from(scratch.start);
  PageMask taken;  // relative to `range`
  PageMask newer;
  int error = mapping ? space_.present_pages(scratch, &taken) : -ENOENT;
  if (error == 0) error = space_.present_pages(range, &newer);
  taken &= ~newer;
  for (PageRun run = taken.next_run(0); run.count != 0 && error == 0; run = taken.next_run(run.end())) {
    const std::uint64_t offset = run.first * kPageSize;
    error = agent_.move_mapping({scratch.start + offset, run.count * kPageSize}, range.start + offset,
                                HostAgent::Expect::kAnything, {&space_, *mapping}, events_, host_);
    if (error == -EAGAIN) error = 0;  // he has unmapped it, too
  }
  if (error != 0) log_error("{:#x} has lost what was written there: error {}", range.start, -error);
  reserve_scratch(range.size);
}

// The application had unmapped `range` when its mapping was replaced by shared memory. It may be somebody else's by
// now: empty memory is what he expects. -EAGAIN, or 0 if shared memory has to stay.
int HostMappings::take_back(Range range, int protection) noexcept {
  log_debug("{:#x} was unmapped while its mapping was replaced", range.start);
  constexpr int kAttempts = 1000;
  for (int i = 0; i < kAttempts; ++i) {
    bool replaced_ours = false;
    int error = make_scratch(range, protection, kNothing);
    if (error == 0) error = move_scratch(range, HostAgent::Expect::kShared, {}, &replaced_ours);
    if (error == 0) return -EAGAIN;
    drop_scratch(range.size);
    if (error == -ENOENT && !host_.events_on_their_way()) return -EAGAIN;  // unmapped again
    events_.read_pending();
    pause_briefly();
  }
  return 0;
}

int HostMappings::discard(Range range, bool* in_part) noexcept {
  const int thrown = throw_away(range);
  if (thrown == 0 || thrown == -EAGAIN) return thrown;
  // Locked memory, say, or no room for one more mapping. While the kernel waits for the event of this call, somebody
  // else can get the addresses, and lose what he writes there (decisions/0013).
  const std::size_t first_event = events_.queued();
  const int error = agent_.discard(range, events_, host_);
  if (agent_.made_call()) forget_own_removals(range, first_event);
  if (in_part != nullptr) *in_part = agent_.made_call();
  return error == -ENOENT ? -EAGAIN : error;
}

// Of the events from number `number` on, those that the agent's discarding of `range` has raised. The kernel raises one
// for each mapping and releases its lock until that has been read. Where the mapping has become shorter meanwhile, it
// raises another one for what is left (Linux, mm/madvise.c, madvise_dontneed_free()).
void HostMappings::forget_own_removals(Range range, std::size_t number) noexcept {
  std::uint64_t start = range.start;
  while (start < range.end()) {
    const std::uint64_t end = events_.take_removal({start, range.end() - start}, &number);
    const auto mapping = space_.query_from(start);
    if (!mapping) return;
    const bool is_mapped = mapping->range.start <= start;
    if (is_mapped != (end != 0)) return;  // no more events, or unmapped after its event: there the call has failed
    start = is_mapped ? std::min(end, mapping->range.end()) : mapping->range.start;
  }
}

// A mapping of the same memory in the window finds him who waits.
int HostMappings::wake_in_file(std::uint64_t address, int file) noexcept {
  constexpr int kAll = 1 << 30;
  const long view = raw_syscall(SYS_mmap, kScratch.start, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                                file, page_down(address));
  if (view < 0) return static_cast<int>(view);
  futex_wake(reinterpret_cast<FutexWord*>(kScratch.start + address % kPageSize), kAll);
  reserve_scratch(kPageSize);
  return 0;
}

}  // namespace mirrorcl::mirror
