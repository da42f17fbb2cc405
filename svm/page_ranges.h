// SPDX-License-Identifier: Apache-2.0
// The free page ranges of the allocator's arenas: takes the smallest range that fits, joins neighbours when they come
// back. Addresses and sizes are multiples of the page size. Not thread safe: the allocator's lock guards it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace mirrorcl::svm {

class PageRanges {
 public:
  // Adds [start, start + size), which must not overlap a free range.
  void insert(std::uint64_t start, std::uint64_t size);
  // Takes `size` bytes at a multiple of `alignment` (a power of two), or nothing if no free range can hold them.
  std::optional<std::uint64_t> take(std::uint64_t size, std::uint64_t alignment);
  std::uint64_t free_bytes() const noexcept { return free_bytes_; }
  std::size_t range_count() const noexcept { return by_start_.size(); }

 private:
  using ByStart = std::map<std::uint64_t, std::uint64_t>;  // start -> size
  void add(std::uint64_t start, std::uint64_t size);
  void remove(ByStart::iterator range);

  ByStart by_start_;
  std::set<std::pair<std::uint64_t, std::uint64_t>> by_size_;  // (size, start)
  std::uint64_t free_bytes_ = 0;
};

}  // namespace mirrorcl::svm
