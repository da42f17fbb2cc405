// SPDX-License-Identifier: Apache-2.0
// The statistics while they are being counted: one writer, the service thread; any reader, at any time.
#pragma once

#include <atomic>
#include <cstdint>

#include "mirror/statistics.h"

namespace mirrorcl::mirror {

class Counters {
 public:
  void add(std::uint64_t Statistics::*counter, std::uint64_t amount = 1) noexcept {
    std::atomic_ref<std::uint64_t> value(values_.*counter);
    value.store(value.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }

  Statistics read() const noexcept {
    static_assert(sizeof(Statistics) % sizeof(std::uint64_t) == 0);
    Statistics copy{};
    auto* from = reinterpret_cast<std::uint64_t*>(const_cast<Statistics*>(&values_));
    auto* to = reinterpret_cast<std::uint64_t*>(&copy);
    for (std::size_t i = 0; i < sizeof(Statistics) / sizeof(std::uint64_t); ++i) {
      to[i] = std::atomic_ref<std::uint64_t>(from[i]).load(std::memory_order_relaxed);
    }
    return copy;
  }

 private:
  Statistics values_{};
};

}  // namespace mirrorcl::mirror
