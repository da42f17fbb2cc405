// SPDX-License-Identifier: Apache-2.0
#include "mirror/device_memory.h"

#include <algorithm>

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

void MirroredMemory::residency(hms::AddressRange range, std::span<hms::Uid> places) const noexcept {
  for (std::uint64_t address = range.start; address < range.end;) {
    const std::uint64_t end = std::min(range.end, block_down(address) + kBlockSize);
    const PageMask pages = mirror_.device_pages(device_, address);
    for (; address < end; address += kPageSize) {
      if (pages.test(page_in_block(address))) places[(address - range.start) / kPageSize] = target_;
    }
  }
}

}  // namespace mirrorcl::mirror
