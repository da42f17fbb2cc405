// SPDX-License-Identifier: Apache-2.0
#include "mirror/block.h"

#include <cassert>

#include "mirror/live.h"

namespace mirrorcl::mirror {

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

PageState Block::state(unsigned page) const {
  if (device_.test(page)) return PageState::kDevice;
  if (duplicated_.test(page)) return PageState::kDuplicated;
  if (coherent_.test(page)) return PageState::kCoherent;
  if (snapshot_.test(page)) return PageState::kSnapshot;
  return PageState::kHost;
}

void Block::show() const noexcept {
  if (shown == nullptr) return;
  const auto pages = [](const PageMask& mask) { return static_cast<std::uint16_t>(mask.count()); };
  Live::show_pages(*shown, 0, {pages(device_), pages(duplicated_), pages(coherent_), pages(snapshot_)});
}

void Block::host_to_device(PageRun run) {
  assert(in_device_memory().none_of(run) && registered_.all_of(run));
  device_.set(run);
  returned_.clear(run);
  discarding_.clear(run);
  show();
}

void Block::device_to_host(PageRun run) {
  assert(device_.all_of(run));
  device_.clear(run);
  returned_.set(run);
  show();
}

void Block::device_to_duplicated(PageRun run) {
  assert(device_.all_of(run));
  device_.clear(run);
  duplicated_.set(run);
  show();
}

void Block::duplicated_to_device(PageRun run) {
  assert(duplicated_.all_of(run));
  duplicated_.clear(run);
  device_.set(run);
  show();
}

void Block::duplicated_to_host(PageRun run) {
  assert(duplicated_.all_of(run));
  duplicated_.clear(run);
  returned_.set(run);
  show();
}

void Block::device_to_coherent(PageRun run) {
  assert(device_.all_of(run));
  device_.clear(run);
  coherent_.set(run);
  show();
}

void Block::coherent_to_device(PageRun run) {
  assert(coherent_.all_of(run));
  coherent_.clear(run);
  device_.set(run);
  show();
}

void Block::host_to_snapshot(PageRun run) {
  assert(in_device_memory().none_of(run));
  snapshot_.set(run);
  show();
}

void Block::snapshot_to_host(PageRun run) {
  assert(snapshot_.all_of(run));
  snapshot_.clear(run);
  show();
}

void Block::device_to_discarded(PageRun run) {
  assert(device_.all_of(run));
  device_.clear(run);
  show();
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
  registered_.clear(run);
  device_.clear(run);
  duplicated_.clear(run);
  coherent_.clear(run);
  snapshot_.clear(run);
  returned_.clear(run);
  discarding_.clear(run);
  stays_private_.clear(run);
  if (returns != nullptr) returns->forget(run);
  show();
}

}  // namespace mirrorcl::mirror
