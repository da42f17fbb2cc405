// SPDX-License-Identifier: Apache-2.0
// The statistics while they are being counted: one writer, the service thread; any reader, at any time. They lie in the
// object that other processes read (mirror/live.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "mirror/statistics.h"

namespace mirrorcl::mirror {

class Counters {
 public:
  static_assert(sizeof(Statistics) % sizeof(std::uint64_t) == 0);
  static constexpr std::size_t kCount = sizeof(Statistics) / sizeof(std::uint64_t);

  explicit Counters(Statistics& values) : values_(values) {}
  Counters(const Counters&) = delete;
  Counters& operator=(const Counters&) = delete;

  // The name of the i-th member of Statistics.
  static const char* name(std::size_t i) noexcept;

  void add(std::uint64_t Statistics::*counter, std::uint64_t amount = 1) noexcept {
    std::atomic_ref<std::uint64_t> value(values_.*counter);
    value.store(value.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }

  Statistics read() const noexcept {
    Statistics copy{};
    auto* from = reinterpret_cast<std::uint64_t*>(&values_);
    auto* to = reinterpret_cast<std::uint64_t*>(&copy);
    for (std::size_t i = 0; i < kCount; ++i) {
      to[i] = std::atomic_ref<std::uint64_t>(from[i]).load(std::memory_order_relaxed);
    }
    return copy;
  }

 private:
  Statistics& values_;
};

}  // namespace mirrorcl::mirror
