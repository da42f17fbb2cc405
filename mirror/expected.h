// SPDX-License-Identifier: Apache-2.0
// Memory that launches name, on its way to the service thread: while a launch waits, what it will use comes to the
// device (expected.cpp says what, and what not). A launch looks here first: once its memory has come that is all it
// costs.
//
// Locking: as marked; no thread waits for another.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "mirror/mirror.h"

namespace mirrorcl::mirror {

class Expected {
 public:
  struct Wish {
    NamedMemory memory;
    unsigned device;  // its index, less than 4
    LaunchWait until;
  };

  // --- any thread

  // The wish for what lies there was answered, and nothing has left a device since.
  bool has_come(std::uint64_t address, unsigned device) const noexcept {
    return come_[place_of(address, device)].load(std::memory_order_relaxed) == mark_of(address, device);
  }
  // One that finds no place is forgotten. True: the service thread is to be woken. Unless rung(), ask may_wake() first.
  bool put(const Wish& wish) noexcept;
  // False: it has been woken in vain too often of late, so no wish is to be put.
  bool may_wake(std::uint64_t now_ns) noexcept;

  LaunchWait open_wait() noexcept {
    const std::uint64_t value = next_wait_.fetch_add(1, std::memory_order_relaxed);
    return {&closed_waits_[value % closed_waits_.size()], value};
  }
  void close_wait(std::uint64_t value) noexcept;

  // --- service thread

  // Somebody has put a wish that is not taken.
  bool rung() const noexcept { return rung_.load(std::memory_order_relaxed); }
  // False: there is none.
  bool take(Wish* wish) noexcept;
  // The wish has been answered, by bringing something or because there is nothing to bring.
  void note_come(const Wish& wish) noexcept;
  // What has come of a wish.
  void note_use(bool useful) noexcept;
  // Pages have left a device, or other memory lies where they were.
  void forget() noexcept { epoch_.store(epoch_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }

 private:
  static constexpr unsigned kPlaceBits = 10;
  static constexpr unsigned kDeviceBits = 2;
  static constexpr unsigned kEpochBits = 15;  // what is left of a word beside an address of 47 bits
  // So many wishes in a row that brought nothing, and the service thread is woken once in kStingyNs only.
  static constexpr std::uint32_t kInVain = 8;
  static constexpr std::uint64_t kStingyNs = 1'000'000;

  struct Slot {
    static constexpr std::uint32_t kFree = 0;
    static constexpr std::uint32_t kClaimed = 1;
    static constexpr std::uint32_t kPosted = 2;
    std::atomic<std::uint32_t> state{kFree};
    Wish wish{};
  };

  std::uint64_t mark_of(std::uint64_t address, unsigned device) const noexcept {
    const std::uint64_t epoch = epoch_.load(std::memory_order_relaxed) & ((std::uint64_t{1} << kEpochBits) - 1);
    return (address << kDeviceBits | device) << kEpochBits | epoch;
  }
  static std::size_t place_of(std::uint64_t address, unsigned device) noexcept {
    // Multiplicative hashing by 2^64 over the golden ratio.
    return ((address >> 4) * 0x9e37'79b9'7f4a'7c15 >> (64 - kPlaceBits)) ^ device;
  }
  bool take_posted(Wish* wish) noexcept;

  std::atomic<std::uint64_t> epoch_{1};
  std::array<std::atomic<std::uint64_t>, std::size_t{1} << kPlaceBits> come_{};
  std::array<Slot, 64> slots_{};
  std::atomic<std::uint32_t> tail_{0};
  std::uint32_t head_ = 0;
  std::atomic<bool> rung_{false};
  std::atomic<std::uint32_t> in_vain_{0};
  std::atomic<std::uint64_t> woken_ns_{0};
  std::atomic<std::uint64_t> next_wait_{1};
  std::array<std::atomic<std::uint64_t>, 64> closed_waits_{};  // the newest that was closed, by value
};

}  // namespace mirrorcl::mirror
