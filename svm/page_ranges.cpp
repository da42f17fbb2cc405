// SPDX-License-Identifier: Apache-2.0
#include "svm/page_ranges.h"

#include <iterator>

namespace mirrorcl::svm {

void PageRanges::add(std::uint64_t start, std::uint64_t size) {
  if (size == 0) return;
  by_start_.emplace(start, size);
  by_size_.emplace(size, start);
  free_bytes_ += size;
}

void PageRanges::remove(ByStart::iterator range) {
  free_bytes_ -= range->second;
  by_size_.erase({range->second, range->first});
  by_start_.erase(range);
}

void PageRanges::insert(std::uint64_t start, std::uint64_t size) {
  auto next = by_start_.lower_bound(start);
  if (next != by_start_.end() && next->first == start + size) {
    size += next->second;
    auto joined = next++;
    remove(joined);
  }
  if (next != by_start_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == start) {
      start = previous->first;
      size += previous->second;
      remove(previous);
    }
  }
  add(start, size);
}

std::optional<std::uint64_t> PageRanges::take(std::uint64_t size, std::uint64_t alignment) {
  for (auto it = by_size_.lower_bound({size, 0}); it != by_size_.end(); ++it) {
    const auto [range_size, range_start] = *it;
    const std::uint64_t start = (range_start + alignment - 1) & ~(alignment - 1);
    const std::uint64_t skipped = start - range_start;
    if (skipped > range_size || range_size - skipped < size) continue;
    remove(by_start_.find(range_start));
    add(range_start, skipped);
    add(start + size, range_size - skipped - size);
    return start;
  }
  return std::nullopt;
}

}  // namespace mirrorcl::svm
