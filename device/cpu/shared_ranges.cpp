// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/shared_ranges.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>

namespace mirrorcl::device {

using mirror::Range;

void SharedRanges::add(Range range, int memory) {
  remove(range);
  auto at = std::lower_bound(ranges_.begin(), ranges_.end(), range.start,
                             [](const SharedRange& left, std::uint64_t start) { return left.range.start < start; });
  at = ranges_.insert(at, {range, memory});
  const auto join = [this](auto left, auto right) {
    if (left->memory != right->memory || left->range.end() != right->range.start) return left;
    left->range.size += right->range.size;
    return std::prev(ranges_.erase(right));
  };
  if (std::next(at) != ranges_.end()) at = join(at, std::next(at));
  if (at != ranges_.begin()) join(std::prev(at), at);
}

void SharedRanges::remove(Range range) {
  std::vector<SharedRange> left;
  for (const SharedRange& old : ranges_) {
    const std::uint64_t before_end = std::min(old.range.end(), range.start);
    const std::uint64_t after_start = std::max(old.range.start, range.end());
    if (old.range.start < before_end) left.push_back({{old.range.start, before_end - old.range.start}, old.memory});
    if (after_start < old.range.end()) left.push_back({{after_start, old.range.end() - after_start}, old.memory});
  }
  ranges_ = std::move(left);
}

}  // namespace mirrorcl::device
