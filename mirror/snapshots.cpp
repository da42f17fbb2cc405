// SPDX-License-Identifier: Apache-2.0
// Read-only copies for devices of memory that cannot be mirrored.
#include <algorithm>

#include "base/log.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

using device::FaultKind;

namespace {

constexpr unsigned kSnapshotPages = 16;

}  // namespace

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
