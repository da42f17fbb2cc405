// SPDX-License-Identifier: Apache-2.0
// Hands out ranges of a region in units of a granule, first fit, neighbours coalesced. Knows nothing of the memory
// itself: its own data lies in ordinary memory, where a kernel that writes wildly into the window cannot reach it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>

namespace mirrorcl::device {

class RangeAllocator {
 public:
  // Locking: the caller's.
  RangeAllocator(std::uint64_t start, std::uint64_t size, std::uint64_t granule);

  std::optional<std::uint64_t> allocate(std::uint64_t bytes);
  // The size, rounded up to granules, of the range that was allocated at `start`; 0 if there is none.
  std::uint64_t size_of(std::uint64_t start) const;
  // The size, rounded up to granules, of the range that was allocated at `start` and is free now; 0 if there was none.
  std::uint64_t free(std::uint64_t start);

 private:
  std::uint64_t granule_;
  std::map<std::uint64_t, std::uint64_t> free_;             // start -> size
  std::unordered_map<std::uint64_t, std::uint64_t> taken_;  // start -> size
};

}  // namespace mirrorcl::device
