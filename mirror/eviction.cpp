// SPDX-License-Identifier: Apache-2.0
// Device memory has a size. Over it the least recently faulted blocks go home: a clock over all blocks, in bounded
// batches, before anything is taken out of the application.
#include <algorithm>
#include <utility>

#include "mirror/migrator.h"

namespace mirrorcl::mirror {
namespace {

// How much may be filled before the device is asked again what is in use: others (SVM allocations) fill it too.
constexpr std::uint64_t kRoomStep = 32 * kBlockSize;
// How much goes at once, so that a stream through a full memory does not stop at every block.
constexpr std::uint64_t kBatch = 8 * kBlockSize;

}  // namespace

bool Migrator::has_room(AttachedDevice& device, std::uint64_t bytes) noexcept {
  if (bytes > device.room) {
    const std::uint64_t size = device->capabilities().memory_size;
    const std::uint64_t used = device->memory_in_use();
    device.room = std::min(size - std::min(used, size), kRoomStep);
  }
  if (bytes > device.room) return false;
  device.room -= bytes;
  return true;
}

Outcome Migrator::make_room(AttachedDevice& device, std::uint64_t bytes, const Block& keep) noexcept {
  if (has_room(device, bytes)) return Outcome::kDone;
  const std::uint64_t batch = std::min(kBatch, device->capabilities().memory_size / 4);
  const std::uint64_t goal = std::max(bytes, batch) / kPageSize;  // pages
  std::uint64_t freed = 0;
  // Three times around: the first forgives what was used recently, and only the last takes what the program has bound
  // to the device's memory.
  const std::size_t count = blocks_.size();
  for (std::size_t left = 3 * count; left > 0 && freed < goal; --left) {
    Block* block = blocks_.next(device.clock_hand);
    if (block == nullptr) block = blocks_.next(0);
    if (block == nullptr) break;
    device.clock_hand = block->base() + kBlockSize;
    const PageMask held = block->in_memory_of(device.index);
    const unsigned pages = (shared(device).on_host() ? held & ~block->coherent(device.index) : held).count();
    if (block == &keep || pages == 0) continue;
    const bool recently_used = (block->recently_used & device.set()) != 0;
    block->recently_used &= static_cast<DeviceSet>(~device.set());
    if (recently_used || (left > count && placement_.is_bound(block->base(), device.index))) continue;
    const Cause cause = std::exchange(cause_, {cause_.requester, cause_.access, hms::Reason::kEvicted});
    const Outcome outcome = bring_home(block->range(), device.set());
    cause_ = cause;
    if (outcome == Outcome::kAgain) return Outcome::kAgain;
    if (outcome == Outcome::kFailed) continue;
    freed += pages;
    cause_.evicts = true;
    counters_.add(&Statistics::evictions);
  }
  device.room = 0;
  return has_room(device, bytes) ? Outcome::kDone : Outcome::kFailed;
}

}  // namespace mirrorcl::mirror
