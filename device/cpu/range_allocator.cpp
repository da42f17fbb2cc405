// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/range_allocator.h"

#include <iterator>

namespace mirrorcl::device {

RangeAllocator::RangeAllocator(std::uint64_t start, std::uint64_t size, std::uint64_t granule) : granule_(granule) {
  free_.emplace(start, size);
}

std::optional<std::uint64_t> RangeAllocator::allocate(std::uint64_t bytes) {
  if (bytes == 0) bytes = 1;
  std::uint64_t size = (bytes + granule_ - 1) / granule_ * granule_;
  if (size < bytes) return std::nullopt;
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    auto [start, available] = *it;
    if (available < size) continue;
    free_.erase(it);
    if (available > size) free_.emplace(start + size, available - size);
    taken_.emplace(start, size);
    return start;
  }
  return std::nullopt;
}

std::uint64_t RangeAllocator::size_of(std::uint64_t start) const {
  auto taken = taken_.find(start);
  return taken != taken_.end() ? taken->second : 0;
}

std::uint64_t RangeAllocator::free(std::uint64_t start) {
  const std::uint64_t size = size_of(start);
  if (size == 0) return 0;
  taken_.erase(start);
  std::uint64_t merged = size;
  auto next = free_.lower_bound(start);
  if (next != free_.end() && next->first == start + size) {
    merged += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == start) {
      previous->second += merged;
      return size;
    }
  }
  free_.emplace(start, merged);
  return size;
}

}  // namespace mirrorcl::device
