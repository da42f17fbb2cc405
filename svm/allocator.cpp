// SPDX-License-Identifier: Apache-2.0
#include "svm/allocator.h"

#include <bit>
#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "device/cpu/cpu_device.h"
#include "svm/pool.h"

namespace mirrorcl::svm {
namespace {

constexpr std::uint64_t kMinAlignment = 128;  // sizeof(cl_long16), what clSVMAlloc's alignment 0 means

class PoolAllocator final : public Allocator {
 public:
  PoolAllocator(std::span<device::CpuDevice* const> devices, hms::HostMemory& host)
      : devices_(devices.begin(), devices.end()), host_(host) {}

  Result<void*> allocate(std::size_t bytes, std::size_t alignment, Place place) override;
  bool free(void* pointer) noexcept override;
  std::optional<Allocation> find(const void* address) const noexcept override;
  std::uint64_t bytes_allocated() const noexcept override;
  std::optional<std::uint64_t> free_bytes(Place place) const override;
  void visit_resident(mirror::Range range,
                      const std::function<void(mirror::Range run, Place place)>& visit) const override;

  // Has the pool of `place` made, or says why it cannot be had.
  Result<void> prepare(Place place);

 private:
  struct Live {
    std::uint64_t size;      // as asked for
    std::uint64_t reserved;  // what it takes
    Place place;
  };

  // Made when somebody first wants memory there.
  Result<Pool*> pool(Place place) MIRRORCL_REQUIRES(mutex_);

  const std::vector<device::CpuDevice*> devices_;
  hms::HostMemory& host_;
  mutable Mutex mutex_;
  std::map<Place, Pool> pools_ MIRRORCL_GUARDED_BY(mutex_);
  std::map<std::uint64_t, Live> pieces_ MIRRORCL_GUARDED_BY(mutex_);  // every live allocation by its address
};

Result<Pool*> PoolAllocator::pool(Place place) {
  const auto found = pools_.find(place);
  if (found != pools_.end()) return &found->second;
  auto source = MemorySource::open(place, devices_, host_);
  if (!source) return tl::unexpected(source.error());
  return &pools_.try_emplace(place, std::move(*source)).first->second;
}

Result<void> PoolAllocator::prepare(Place place) {
  ScopedLock lock(mutex_);
  auto made = pool(place);
  return made ? Result<void>() : tl::unexpected(made.error());
}

Result<void*> PoolAllocator::allocate(std::size_t bytes, std::size_t alignment, Place place) {
  if (bytes == 0) return fail(ErrorCode::kInvalidArgument, "an allocation of no bytes was asked for");
  if (alignment == 0) alignment = kMinAlignment;
  if (!std::has_single_bit(alignment) || alignment > Pool::kMaxAlignment) {
    return fail(ErrorCode::kInvalidArgument,
                "alignment " + std::to_string(alignment) + " is not a power of two up to 2 MiB");
  }
  ScopedLock lock(mutex_);
  auto pool = this->pool(place);
  if (!pool) return tl::unexpected(pool.error());
  auto piece = (*pool)->take(bytes, alignment);
  if (!piece) return tl::unexpected(piece.error());
  pieces_.emplace(piece->start, Live{bytes, piece->size, place});
  return reinterpret_cast<void*>(piece->start);
}

bool PoolAllocator::free(void* pointer) noexcept {
  ScopedLock lock(mutex_);
  const auto found = pieces_.find(reinterpret_cast<std::uint64_t>(pointer));
  if (found == pieces_.end()) return false;
  const auto [start, piece] = *found;
  pieces_.erase(found);
  pools_.at(piece.place).give_back({start, piece.reserved});
  return true;
}

std::optional<Allocation> PoolAllocator::find(const void* address) const noexcept {
  const auto wanted = reinterpret_cast<std::uint64_t>(address);
  ScopedLock lock(mutex_);
  auto next = pieces_.upper_bound(wanted);
  if (next == pieces_.begin()) return std::nullopt;
  const auto& [start, piece] = *std::prev(next);
  if (wanted - start >= piece.size) return std::nullopt;
  return Allocation{reinterpret_cast<void*>(start), piece.size, piece.place};
}

std::uint64_t PoolAllocator::bytes_allocated() const noexcept {
  ScopedLock lock(mutex_);
  std::uint64_t sum = 0;
  for (const auto& [place, pool] : pools_) sum += pool.bytes_taken();
  return sum;
}

std::optional<std::uint64_t> PoolAllocator::free_bytes(Place place) const {
  ScopedLock lock(mutex_);
  const auto pool = pools_.find(place);
  if (pool != pools_.end()) return pool->second.free_bytes();
  // Nothing has been allocated there yet.
  const auto source = MemorySource::open(place, devices_, host_);
  if (!source) return std::nullopt;
  return (*source)->free_bytes(0);
}

void PoolAllocator::visit_resident(mirror::Range range,
                                   const std::function<void(mirror::Range run, Place place)>& visit) const {
  ScopedLock lock(mutex_);
  for (const auto& entry : pools_) {
    const Place place = entry.first;
    entry.second.visit_resident(range, [&](mirror::Range run) { visit(run, place); });
  }
}

}  // namespace

Result<std::unique_ptr<Allocator>> Allocator::create(std::span<device::CpuDevice* const> devices,
                                                     hms::HostMemory& host) {
  auto allocator = std::make_unique<PoolAllocator>(devices, host);
  // The first device's memory must be of use; of the others it shows when it is wanted.
  if (auto first = allocator->prepare(memory_of_device(0)); !first) return tl::unexpected(first.error());
  return allocator;
}

}  // namespace mirrorcl::svm
