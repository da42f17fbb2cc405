// SPDX-License-Identifier: Apache-2.0
// The statistics while they are being counted: one writer, the service thread; any reader, at any time. They lie in the
// object that other processes read (mirror/live.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "mirror/block.h"
#include "mirror/statistics.h"

namespace mirrorcl::mirror {

class Counters {
 public:
  static_assert(sizeof(Statistics) % sizeof(std::uint64_t) == 0);
  static constexpr std::size_t kCount = sizeof(Statistics) / sizeof(std::uint64_t);

  // Those of all devices together come first, then those of each.
  static constexpr std::size_t kDeviceCount = sizeof(DeviceStatistics) / sizeof(std::uint64_t);
  static constexpr std::size_t kAll = kCount + kMaxDevices * kDeviceCount;
  struct Values {
    Statistics all;
    DeviceStatistics devices[kMaxDevices];
  };
  static_assert(sizeof(Values) == kAll * sizeof(std::uint64_t));

  explicit Counters(Values& values) : values_(values) {}
  Counters(const Counters&) = delete;
  Counters& operator=(const Counters&) = delete;

  // The name of the i-th of kAll, as others see it.
  static std::string name(std::size_t i);

  void add(std::uint64_t Statistics::*counter, std::uint64_t amount = 1) noexcept { add(values_.all.*counter, amount); }
  void add(unsigned device, std::uint64_t DeviceStatistics::*counter, std::uint64_t amount = 1) noexcept {
    add(values_.devices[device].*counter, amount);
  }

  Statistics read() const noexcept { return read(values_.all); }
  DeviceStatistics read(unsigned device) const noexcept { return read(values_.devices[device]); }

 private:
  static void add(std::uint64_t& counter, std::uint64_t amount) noexcept {
    std::atomic_ref<std::uint64_t> value(counter);
    value.store(value.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  template <typename T>
  static T read(T& values) noexcept {
    T copy{};
    auto* from = reinterpret_cast<std::uint64_t*>(&values);
    auto* to = reinterpret_cast<std::uint64_t*>(&copy);
    for (std::size_t i = 0; i < sizeof(T) / sizeof *to; ++i) {
      to[i] = std::atomic_ref<std::uint64_t>(from[i]).load(std::memory_order_relaxed);
    }
    return copy;
  }

  Values& values_;
};

}  // namespace mirrorcl::mirror
