// SPDX-License-Identifier: Apache-2.0
// Device memory has a size. Over it blocks leave, before anything is taken out of the application: a clock over all
// blocks, in bounded batches, finds those that may; which of them go first, and where, hms/ says.
#include <algorithm>
#include <span>
#include <utility>

#include "base/log.h"
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
  for (std::size_t looks = 3 * count; looks > 0 && freed < goal;) {
    Leavings leavings;
    const std::size_t found = find_leavings(device, keep, &looks, &leavings);
    if (found == 0) break;
    for (const Leaving& leaving : std::span(leavings).first(found)) {
      if (freed >= goal) break;
      if (leaving.rank == 0 && looks > count) continue;
      const Outcome outcome = evict(device, *leaving.block);
      if (outcome == Outcome::kAgain) return Outcome::kAgain;
      if (outcome == Outcome::kFailed) continue;
      freed += leaving.pages;
      cause_.evicts = true;
      counters_.add(&Statistics::evictions);
      counters_.add(device.index, &DeviceStatistics::evictions);
    }
  }
  device.room = 0;
  const bool fits = has_room(device, bytes);
  if (!fits && !device.told_full) {
    log_warning("{} bytes do not fit into a device's memory of {}, of which nothing more can leave", bytes,
                device->capabilities().memory_size);
  }
  device.told_full = !fits;
  return fits ? Outcome::kDone : Outcome::kFailed;
}

// The clock's next blocks that may leave, those that hms/ would let go first in front. Takes off `looks` as many blocks
// as it passes.
std::size_t Migrator::find_leavings(AttachedDevice& device, const Block& keep, std::size_t* looks,
                                    Leavings* found) noexcept {
  const std::uint64_t now = now_ns();
  std::size_t count = 0;
  for (; *looks > 0 && count < found->size(); --*looks) {
    Block* block = blocks_.next(device.clock_hand);
    if (block == nullptr) block = blocks_.next(0);
    if (block == nullptr) break;
    device.clock_hand = block->base() + kBlockSize;
    const PageMask held = device_pages(device, *block) | block->snapshot(device.index);
    if (block == &keep || held.none()) continue;
    const bool recently_used = (block->recently_used & device.set()) != 0;
    block->recently_used &= static_cast<DeviceSet>(~device.set());
    if (recently_used) continue;
    const bool again = std::any_of(found->begin(), found->begin() + static_cast<std::ptrdiff_t>(count),
                                   [&](const Leaving& other) { return other.block == block; });
    if (again) break;  // all the way around
    const PageMask to_write = held & (block->device(device.index) | block->coherent(device.index));
    const hms::EvictionCandidate candidate{.idle_ms = to_ms(now - std::min(now, block->granted_ns)),
                                           .pages = held.count(),
                                           .pages_to_write = to_write.count()};
    (*found)[count++] = {block, held.count(), placement_.eviction_rank(block->base(), device.index, candidate)};
  }
  std::stable_sort(found->begin(), found->begin() + static_cast<std::ptrdiff_t>(count),
                   [](const Leaving& a, const Leaving& b) { return a.rank > b.rank; });
  return count;
}

// What `device` holds of `block` goes where hms/ says.
Outcome Migrator::evict(AttachedDevice& device, Block& block) noexcept {
  expected_.forget();
  std::array<std::uint64_t, kMaxDevices> free_pages{};
  for (AttachedDevice& other : devices_) {
    if (&other == &device || other.operations == nullptr) continue;
    const std::uint64_t size = other->capabilities().memory_size;
    const std::uint64_t free = (size - std::min(size, other->memory_in_use())) / kPageSize;
    free_pages[other.index] = free >= kBlockPages ? free : 0;
  }
  const unsigned to = placement_.evicted_to(block.base(), device.index, free_pages);
  Cause leaving{cause_.requester, cause_.access, hms::Reason::kEvicted};
  leaving.policy = &placement_.leaving_policy();
  const Cause cause = std::exchange(cause_, leaving);
  const int kernel_node = std::exchange(kernel_node_, kUnknownNode);  // nobody touches them: they go where they were
  Outcome outcome = Outcome::kDone;
  if (to != kHostSide) outcome = move_to_other(device, devices_[to], block);
  if (outcome != Outcome::kAgain) outcome = bring_home(block.range(), device.set(), Tracking::kKeep);
  cause_ = cause;
  kernel_node_ = kernel_node;
  return outcome;
}

// The pages of which `device` has the only copy. What does not fit stays.
Outcome Migrator::move_to_other(AttachedDevice& device, AttachedDevice& to, Block& block) noexcept {
  const PageMask alone = block.device(device.index) & ~block.copied();
  if (!has_room(to, alone.count() * kPageSize)) return Outcome::kDone;
  for (PageRun run = alone.next_run(0); run.count != 0; run = alone.next_run(run.end())) {
    const Verdict verdict = move_across(to, device, block, run, run.first, Leave::kNothing);
    if (verdict.outcome != Outcome::kDone) return verdict.outcome;
  }
  return Outcome::kDone;
}

}  // namespace mirrorcl::mirror
