// SPDX-License-Identifier: Apache-2.0
#include "svm/pool.h"

#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string>

#include "base/log.h"
#include "device/window.h"

namespace mirrorcl::svm {
namespace {

using window::kPageSize;

constexpr std::uint64_t kArenaSize = window::kGiB;
// Allocations up to kLargestClass bytes come from slabs cut into pieces of one size, a power of two.
constexpr std::uint64_t kSmallestClass = 128;
constexpr std::uint64_t kLargestClass = 2048;
constexpr std::uint64_t kSlabSize = 64 * 1024;

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t multiple) {
  return (value + multiple - 1) & ~(multiple - 1);
}

constexpr std::size_t class_index(std::uint64_t class_size) {
  return static_cast<std::size_t>(std::countr_zero(class_size) - std::countr_zero(kSmallestClass));
}

}  // namespace

Result<void> Pool::add_arena(std::uint64_t at_least) {
  const std::uint64_t size = round_up(std::max(at_least, kArenaSize), kMaxAlignment);
  // The kernel chooses the address; one alignment more is asked for and cut off again. Nothing else can take the range
  // between the two mmaps, because the reservation holds it.
  void* reserved = ::mmap(nullptr, size + kMaxAlignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return fail_errno("cannot reserve address space for device memory", errno);
  const std::uint64_t start = round_up(reinterpret_cast<std::uint64_t>(reserved), kMaxAlignment);
  const std::uint64_t before = start - reinterpret_cast<std::uint64_t>(reserved);
  if (before != 0) ::munmap(reserved, before);
  if (before != kMaxAlignment) ::munmap(reinterpret_cast<void*>(start + size), kMaxAlignment - before);
  if (auto backed = source_->back({start, size}); !backed) {
    ::munmap(reinterpret_cast<void*>(start), size);
    return backed;
  }
  arenas_.emplace(start, size);
  free_pages_.insert(start, size);
  log_debug("svm: arena of {} MiB at {:#x}", size >> 20, start);
  return {};
}

Result<std::uint64_t> Pool::take_pages(std::uint64_t size, std::uint64_t alignment) {
  alignment = std::max(alignment, kPageSize);
  auto start = free_pages_.take(size, alignment);
  if (!start) {
    // An arena starts at a multiple of the greatest alignment, so a new one that holds `size` always serves.
    if (auto added = add_arena(size); !added) return tl::unexpected(added.error());
    start = free_pages_.take(size, alignment);
  }
  if (auto bound = source_->bind({*start, size}); !bound) {
    free_pages_.insert(*start, size);
    return tl::unexpected(bound.error());
  }
  return *start;
}

Result<std::uint64_t> Pool::take_small(std::uint64_t class_size) {
  static_assert(kSmallestClass << (kClassCount - 1) == kLargestClass);
  auto& pieces = free_small_[class_index(class_size)];
  if (pieces.empty()) {
    auto slab = take_pages(kSlabSize, kPageSize);
    if (!slab) return slab;
    for (std::uint64_t offset = 0; offset < kSlabSize; offset += class_size) pieces.insert(*slab + offset);
  }
  const std::uint64_t start = *pieces.begin();
  pieces.erase(pieces.begin());
  return start;
}

Result<Pool::Piece> Pool::take(std::uint64_t bytes, std::uint64_t alignment) {
  if (bytes > free_bytes()) {
    return fail(ErrorCode::kOutOfDeviceMemory,
                std::to_string(bytes) + " bytes do not fit: " + std::to_string(free_bytes()) +
                    " bytes are free beside " + std::to_string(bytes_taken_) + " in use");
  }
  const std::uint64_t needed = std::max<std::uint64_t>({bytes, alignment, kSmallestClass});
  const bool small = needed <= kLargestClass;
  const std::uint64_t reserved = small ? std::bit_ceil(needed) : round_up(bytes, kPageSize);
  auto start = small ? take_small(reserved) : take_pages(reserved, alignment);
  if (!start) return tl::unexpected(start.error());
  bytes_taken_ += reserved;
  return Piece{*start, reserved};
}

void Pool::give_back(Piece piece) noexcept {
  bytes_taken_ -= piece.size;
  if (piece.size <= kLargestClass) {
    free_small_[class_index(piece.size)].insert(piece.start);
  } else if (source_->discard({piece.start, piece.size})) {
    free_pages_.insert(piece.start, piece.size);
  } else {
    // The range is not used again: it would not read as zero.
    log_warning("svm: memory at {:#x} cannot be freed: {}", piece.start, strerrordesc_np(errno));
  }
}

void Pool::visit_resident(mirror::Range range, const std::function<void(mirror::Range)>& visit) const {
  for (const auto& [start, size] : arenas_) {
    const std::uint64_t first = std::max(range.start, start);
    const std::uint64_t end = std::min(range.end(), start + size);
    if (first < end) source_->visit_resident({first, end - first}, visit);
  }
}

}  // namespace mirrorcl::svm
