// SPDX-License-Identifier: Apache-2.0
#include "mirror/block.h"

#include <cassert>

#include "mirror/live.h"

namespace mirrorcl::mirror {

static_assert(sizeof(Block) + sizeof(ReturnCounter) <= kBlockSize / 1000, "less than 0.1 % of the memory");

const char* page_state_name(PageState state) noexcept {
  switch (state) {
    case PageState::kHost:
      return "host";
    case PageState::kDevice:
      return "device";
    case PageState::kDuplicated:
      return "duplicated";
    case PageState::kCoherent:
      return "coherent";
    case PageState::kSnapshot:
      return "snapshot";
  }
  return "unknown";
}

PageRun Block::pages(Range range) const {
  std::uint64_t start = std::max(range.start, base_);
  std::uint64_t end = std::min(range.end(), base_ + kBlockSize);
  if (start >= end) return {0, 0};
  return {page_in_block(start), static_cast<unsigned>((end - start) / kPageSize)};
}

PageMask Block::on_any(PageMask OnDevice::*mask) const {
  PageMask any = on_[0].*mask;
  for (unsigned device = 1; device < kMaxDevices; ++device) any |= on_[device].*mask;
  return any;
}

unsigned Block::owner(unsigned page) const {
  unsigned device = 0;
  while (device < kMaxDevices && !on_[device].device.test(page) && !on_[device].coherent.test(page)) ++device;
  return device;
}

PageState Block::state(unsigned page) const {
  if (device().test(page)) return PageState::kDevice;
  if (duplicated().test(page)) return PageState::kDuplicated;
  if (coherent().test(page)) return PageState::kCoherent;
  if (snapshot().test(page)) return PageState::kSnapshot;
  return PageState::kHost;
}

void Block::show(unsigned device) const noexcept {
  if (shown == nullptr) return;
  const auto pages = [](const PageMask& mask) { return static_cast<std::uint16_t>(mask.count()); };
  const OnDevice& on = on_[device];
  Live::show_pages(*shown, device, {pages(on.device), pages(on.duplicated), pages(on.coherent), pages(on.snapshot)});
}

void Block::host_to_device(unsigned device, PageRun run) {
  assert(in_device_memory().none_of(run) && registered_.all_of(run));
  on_[device].device.set(run);
  returned_.clear(run);
  discarding_.clear(run);
  show(device);
}

void Block::device_to_host(unsigned device, PageRun run) {
  assert(on_[device].device.all_of(run) && copied().none_of(run));
  on_[device].device.clear(run);
  returned_.set(run);
  show(device);
}

void Block::device_to_duplicated(unsigned device, PageRun run) {
  assert(on_[device].device.all_of(run));
  on_[device].device.clear(run);
  on_[device].duplicated.set(run);
  show(device);
}

void Block::duplicated_to_device(unsigned device, PageRun run) {
  assert(duplicated().all_of(run) && on_[device].duplicated.all_of(run));
  on_[device].duplicated.clear(run);
  on_[device].device.set(run);
  show(device);
}

void Block::drop_duplicate(unsigned device, PageRun run) {
  assert(on_[device].duplicated.all_of(run));
  on_[device].duplicated.clear(run);
  returned_ |= PageMask(run) & on_host();
  show(device);
}

void Block::device_to_device(unsigned from, unsigned to, PageRun run) {
  assert(from != to && on_[from].device.all_of(run));
  on_[to].duplicated.clear(run);
  assert(copied().none_of(run) && on_[to].snapshot.none_of(run));
  on_[from].device.clear(run);
  on_[to].device.set(run);
  show(from);
  show(to);
}

void Block::add_duplicate(unsigned device, PageRun run) {
  assert(in_memory_of(device).none_of(run) && (this->device() | copied()).all_of(run));
  on_[device].duplicated.set(run);
  show(device);
}

void Block::device_to_coherent(unsigned device, PageRun run) {
  assert(on_[device].device.all_of(run) && copied().none_of(run));
  on_[device].device.clear(run);
  on_[device].coherent.set(run);
  show(device);
}

void Block::coherent_to_device(unsigned device, PageRun run) {
  assert(on_[device].coherent.all_of(run) && on_any(&OnDevice::sharing).none_of(run));
  on_[device].coherent.clear(run);
  on_[device].device.set(run);
  show(device);
}

void Block::share_coherent(unsigned device, PageRun run) {
  assert(coherent().all_of(run) && in_memory_of(device).none_of(run));
  on_[device].sharing.set(run);
}

void Block::end_coherent_sharing(unsigned device, PageRun run) {
  assert(on_[device].sharing.all_of(run));
  on_[device].sharing.clear(run);
}

void Block::host_to_duplicated(unsigned device, PageRun run) {
  assert(in_device_memory().none_of(run) && registered_.all_of(run));
  on_[device].duplicated.set(run);
  returned_.clear(run);
  show(device);
}

void Block::host_to_snapshot(unsigned device, PageRun run) {
  assert(needs_tracking().none_of(run) && on_[device].snapshot.none_of(run));
  on_[device].snapshot.set(run);
  show(device);
}

void Block::snapshot_to_host(unsigned device, PageRun run) {
  assert(on_[device].snapshot.all_of(run));
  on_[device].snapshot.clear(run);
  show(device);
}

void Block::device_to_discarded(unsigned device, PageRun run) {
  assert(on_[device].device.all_of(run) && copied().none_of(run));
  on_[device].device.clear(run);
  show(device);
}

void Block::mark_unregistered(PageRun run) {
  assert(needs_tracking().none_of(run));
  registered_.clear(run);
  discarding_.clear(run);
}

void Block::mark_discarding(const PageMask& pages, std::uint64_t now_ns) {
  assert((pages & in_device_memory()).none());
  discarding_ |= pages;
  discarding_since_ns_ = now_ns;
}

void Block::forget(PageRun run) {
  for (OnDevice& on : on_) {
    on.device.clear(run);
    on.duplicated.clear(run);
    on.coherent.clear(run);
    on.snapshot.clear(run);
    on.sharing.clear(run);
  }
  registered_.clear(run);
  returned_.clear(run);
  discarding_.clear(run);
  stays_private_.clear(run);
  if (returns != nullptr) returns->forget(run);
  if (registered_.none()) {
    writes_expected = kNotKnown;
    was_huge = false;
    was_whole = false;
  }
  for (unsigned device = 0; device < kMaxDevices; ++device) show(device);
}

}  // namespace mirrorcl::mirror
