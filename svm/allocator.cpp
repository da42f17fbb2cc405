// SPDX-License-Identifier: Apache-2.0
// Arenas of device memory, mapped here at the address that equals their offset in the device memory file and shared
// with the device process once. An arena is never given back to the kernel: the device's mapping of it stays, and its
// address range serves the next allocations. The memory of a freed page range is, at once, by punching a hole.
#include "svm/allocator.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "device/cpu/cpu_device.h"
#include "svm/page_ranges.h"

namespace mirrorcl::svm {
namespace {

using window::kPageSize;

constexpr std::uint64_t kArenaSize = window::kGiB;
constexpr std::uint64_t kMaxAlignment = 2 * window::kMiB;
constexpr std::uint64_t kMinAlignment = 128;  // sizeof(cl_long16), what clSVMAlloc's alignment 0 means
// Allocations up to kLargestClass bytes come from slabs cut into pieces of one size, a power of two.
constexpr std::uint64_t kSmallestClass = 128;
constexpr std::uint64_t kLargestClass = 2048;
constexpr std::size_t kClassCount = 5;
constexpr std::uint64_t kSlabSize = 64 * 1024;
static_assert(kSmallestClass << (kClassCount - 1) == kLargestClass);

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t multiple) {
  return (value + multiple - 1) & ~(multiple - 1);
}

struct Piece {
  std::uint64_t size;      // as asked for
  std::uint64_t reserved;  // what it takes: its class, or whole pages
};

class ArenaAllocator final : public Allocator {
 public:
  explicit ArenaAllocator(std::span<device::CpuDevice* const> devices)
      : owner_(*devices.front()),
        others_(devices.begin() + 1, devices.end()),
        memory_size_(owner_.capabilities().memory_size),
        memory_fd_(owner_.capabilities().shares_page_tables ? -1 : owner_.memory_fd()) {}

  Result<void*> allocate(std::size_t bytes, std::size_t alignment) override;
  bool free(void* pointer) noexcept override;
  std::optional<Allocation> find(const void* address) const noexcept override;
  std::uint64_t bytes_allocated() const noexcept override;

 private:
  // All with mutex_ held.
  Result<std::uint64_t> take_pages(std::uint64_t size, std::uint64_t alignment);
  Result<std::uint64_t> take_small(std::uint64_t class_size);
  Result<void> add_arena(std::uint64_t at_least);
  // Backs a reserved range with memory that host and devices see.
  Result<void> back(std::uint64_t start, std::uint64_t size);
  // With all devices or none.
  Result<void> share(mirror::Range range);
  // Frees the memory on both sides, and makes the next allocation here read as zero. False, with errno, on failure.
  bool discard(std::uint64_t start, std::uint64_t size) noexcept;

  device::CpuDevice& owner_;
  const std::vector<device::CpuDevice*> others_;
  const std::uint64_t memory_size_;
  const int memory_fd_;  // -1: plain memory
  mutable std::mutex mutex_;
  std::map<std::uint64_t, Piece> pieces_;  // every live allocation by its address
  PageRanges free_pages_;
  // Free pieces of each class, lowest address first, so that slabs fill up from one end. A slab keeps its pages.
  std::array<std::set<std::uint64_t>, kClassCount> free_small_;
  std::uint64_t bytes_allocated_ = 0;
};

std::size_t class_index(std::uint64_t class_size) {
  return static_cast<std::size_t>(std::countr_zero(class_size) - std::countr_zero(kSmallestClass));
}

Result<void> ArenaAllocator::add_arena(std::uint64_t at_least) {
  const std::uint64_t size = round_up(std::max(at_least, kArenaSize), kMaxAlignment);
  // The kernel chooses the address; one alignment more is asked for and cut off again. Nothing else can take the range
  // between the two mmaps, because the reservation holds it.
  void* reserved = ::mmap(nullptr, size + kMaxAlignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return fail_errno("cannot reserve address space for device memory", errno);
  const std::uint64_t start = round_up(reinterpret_cast<std::uint64_t>(reserved), kMaxAlignment);
  const std::uint64_t before = start - reinterpret_cast<std::uint64_t>(reserved);
  if (before != 0) ::munmap(reserved, before);
  if (before != kMaxAlignment) ::munmap(reinterpret_cast<void*>(start + size), kMaxAlignment - before);
  if (auto backed = back(start, size); !backed) {
    ::munmap(reinterpret_cast<void*>(start), size);
    return backed;
  }
  free_pages_.insert(start, size);
  log_debug("svm: arena of {} MiB at {:#x}", size >> 20, start);
  return {};
}

Result<void> ArenaAllocator::back(std::uint64_t start, std::uint64_t size) {
  void* range = reinterpret_cast<void*>(start);
  if (memory_fd_ < 0) {
    if (::mprotect(range, size, PROT_READ | PROT_WRITE) == 0) return {};
    return fail_errno("cannot use reserved address space (vm.overcommit_memory=2?)", errno);
  }
  void* mapped = ::mmap(range, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, memory_fd_,
                        static_cast<off_t>(start));
  if (mapped == MAP_FAILED) return fail_errno("cannot map device memory", errno);
  return share({start, size});
}

Result<void> ArenaAllocator::share(mirror::Range range) {
  if (auto shared = owner_.share(range); !shared) return shared;
  for (auto other = others_.begin(); other != others_.end(); ++other) {
    auto shared = (*other)->share_of(owner_, range);
    if (shared) continue;
    while (other != others_.begin()) (void)(*--other)->unshare(range);
    (void)owner_.unshare(range);
    return shared;
  }
  return {};
}

bool ArenaAllocator::discard(std::uint64_t start, std::uint64_t size) noexcept {
  if (memory_fd_ < 0) return ::madvise(reinterpret_cast<void*>(start), size, MADV_DONTNEED) == 0;
  return ::fallocate(memory_fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(start),
                     static_cast<off_t>(size)) == 0;
}

Result<std::uint64_t> ArenaAllocator::take_pages(std::uint64_t size, std::uint64_t alignment) {
  alignment = std::max(alignment, kPageSize);
  if (auto start = free_pages_.take(size, alignment)) return *start;
  // An arena starts at a multiple of the greatest alignment, so a new one that holds `size` always serves.
  if (auto added = add_arena(size); !added) return tl::unexpected(added.error());
  return *free_pages_.take(size, alignment);
}

Result<std::uint64_t> ArenaAllocator::take_small(std::uint64_t class_size) {
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

Result<void*> ArenaAllocator::allocate(std::size_t bytes, std::size_t alignment) {
  if (bytes == 0) return fail(ErrorCode::kInvalidArgument, "an allocation of no bytes was asked for");
  if (alignment == 0) alignment = kMinAlignment;
  if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
    return fail(ErrorCode::kInvalidArgument,
                "alignment " + std::to_string(alignment) + " is not a power of two up to 2 MiB");
  }
  const std::uint64_t needed = std::max<std::uint64_t>({bytes, alignment, kSmallestClass});
  const bool small = needed <= kLargestClass;
  std::lock_guard lock(mutex_);
  if (bytes > memory_size_ || bytes_allocated_ > memory_size_ - bytes) {
    return fail(ErrorCode::kOutOfDeviceMemory, std::to_string(bytes) +
                                                   " bytes do not fit: " + std::to_string(bytes_allocated_) + " of " +
                                                   std::to_string(memory_size_) + " bytes of device memory are in use");
  }
  const std::uint64_t reserved = small ? std::bit_ceil(needed) : round_up(bytes, kPageSize);
  auto start = small ? take_small(reserved) : take_pages(reserved, alignment);
  if (!start) return tl::unexpected(start.error());
  pieces_.emplace(*start, Piece{bytes, reserved});
  bytes_allocated_ += reserved;
  return reinterpret_cast<void*>(*start);
}

bool ArenaAllocator::free(void* pointer) noexcept {
  std::lock_guard lock(mutex_);
  const auto found = pieces_.find(reinterpret_cast<std::uint64_t>(pointer));
  if (found == pieces_.end()) return false;
  const auto [start, piece] = *found;
  pieces_.erase(found);
  bytes_allocated_ -= piece.reserved;
  if (piece.reserved <= kLargestClass) {
    free_small_[class_index(piece.reserved)].insert(start);
    return true;
  }
  if (!discard(start, piece.reserved)) {
    log_warning("svm: device memory at {:#x} cannot be freed: {}", start, std::strerror(errno));
    return true;  // the range is not used again: it would not read as zero
  }
  free_pages_.insert(start, piece.reserved);
  return true;
}

std::optional<Allocation> ArenaAllocator::find(const void* address) const noexcept {
  const auto wanted = reinterpret_cast<std::uint64_t>(address);
  std::lock_guard lock(mutex_);
  auto next = pieces_.upper_bound(wanted);
  if (next == pieces_.begin()) return std::nullopt;
  const auto& [start, piece] = *std::prev(next);
  if (wanted - start >= piece.size) return std::nullopt;
  return Allocation{reinterpret_cast<void*>(start), piece.size};
}

std::uint64_t ArenaAllocator::bytes_allocated() const noexcept {
  std::lock_guard lock(mutex_);
  return bytes_allocated_;
}

}  // namespace

Result<std::unique_ptr<Allocator>> Allocator::create(std::span<device::CpuDevice* const> devices) {
  const device::CpuDevice& owner = *devices.front();
  if (owner.memory_fd() < 0 && !owner.capabilities().shares_page_tables) {
    return fail(ErrorCode::kNotSupported, "the device's memory cannot be mapped by the application");
  }
  return std::make_unique<ArenaAllocator>(devices);
}

}  // namespace mirrorcl::svm
