// SPDX-License-Identifier: Apache-2.0
// The memory of one place, cut up for allocations. It comes in arenas, which are never given back to the kernel: the
// devices' mapping of an arena stays, and its address range serves the next allocations. The memory of a freed page
// range is given back, at once. Small allocations come from slabs cut into pieces of one size.
//
// Not thread safe: the allocator's lock guards it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "base/result.h"
#include "svm/memory_source.h"
#include "svm/page_ranges.h"

namespace mirrorcl::svm {

class Pool {
 public:
  static constexpr std::uint64_t kMaxAlignment = std::uint64_t{2} << 20;

  explicit Pool(std::unique_ptr<MemorySource> source) : source_(std::move(source)) {}

  struct Piece {
    std::uint64_t start;
    std::uint64_t size;  // what it takes: a power of two, or whole pages
  };
  // `alignment`: a power of two up to kMaxAlignment. kOutOfDeviceMemory if it does not fit.
  Result<Piece> take(std::uint64_t bytes, std::uint64_t alignment);
  void give_back(Piece piece) noexcept;

  std::uint64_t bytes_taken() const noexcept { return bytes_taken_; }
  std::uint64_t free_bytes() const noexcept { return source_->free_bytes(bytes_taken_); }
  // MemorySource::visit_resident() for what lies in its arenas.
  void visit_resident(mirror::Range range, const std::function<void(mirror::Range)>& visit) const;

 private:
  static constexpr std::size_t kClassCount = 5;

  Result<std::uint64_t> take_pages(std::uint64_t size, std::uint64_t alignment);
  Result<std::uint64_t> take_small(std::uint64_t class_size);
  Result<void> add_arena(std::uint64_t at_least);

  const std::unique_ptr<MemorySource> source_;
  std::map<std::uint64_t, std::uint64_t> arenas_;  // start -> size
  PageRanges free_pages_;
  // Free pieces of each class, lowest address first, so that slabs fill up from one end. A slab keeps its pages.
  std::array<std::set<std::uint64_t>, kClassCount> free_small_;
  std::uint64_t bytes_taken_ = 0;
};

}  // namespace mirrorcl::svm
