// SPDX-License-Identifier: Apache-2.0
#include "mirror/device_memory.h"

#include <algorithm>
#include <array>

namespace mirrorcl::mirror {

std::uint64_t MirroredMemory::free_bytes() const noexcept {
  const std::uint64_t size = device_.capabilities().memory_size;
  return size - std::min(size, device_.memory_in_use());
}

int MirroredMemory::move_in(hms::AddressRange range, hms::Untouched untouched) noexcept {
  return mirror_.bring_in(device_, {range.start, range.size()},
                          untouched == hms::Untouched::kAllocate ? Untouched::kAllocate : Untouched::kSkip);
}

int MirroredMemory::move_out(hms::AddressRange range) noexcept {
  mirror_.bring_home({range.start, range.size()});
  return 0;
}

// Pages of the block at `base` that are in `pages` have their entry among those of `range`, if they are part of it.
void MirroredMemory::mark(const PageMask& pages, std::uint64_t base, hms::AddressRange range,
                          std::span<hms::Uid> places) const noexcept {
  for (PageRun run = pages.next_run(0); run.count != 0; run = pages.next_run(run.end())) {
    const std::uint64_t start = std::max(range.start, base + run.first * kPageSize);
    const std::uint64_t end = std::min(range.end, base + run.end() * kPageSize);
    for (std::uint64_t at = start; at < end; at += kPageSize) places[(at - range.start) / kPageSize] = target_;
  }
}

void MirroredMemory::residency(hms::AddressRange range, std::span<hms::Uid> places) const noexcept {
  std::array<PageMask, 16> blocks;
  const std::uint64_t blocks_end = block_down(range.end + kBlockSize - 1);
  for (std::uint64_t base = block_down(range.start); base < blocks_end; base += blocks.size() * kBlockSize) {
    const auto some = std::span(blocks).first(std::min(blocks.size(), (blocks_end - base) / kBlockSize));
    mirror_.device_pages(device_, base, some);
    for (std::size_t i = 0; i < some.size(); ++i) mark(some[i], base + i * kBlockSize, range, places);
  }
}

}  // namespace mirrorcl::mirror
