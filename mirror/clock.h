// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <time.h>

#include <cstdint>

namespace mirrorcl::mirror {

// Nanoseconds of CLOCK_MONOTONIC.
inline std::uint64_t now_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

// A time that does not come.
inline constexpr std::uint64_t kNever = ~std::uint64_t{0};

}  // namespace mirrorcl::mirror
