// SPDX-License-Identifier: Apache-2.0
// Where pages should live and how many move at once. Pure functions of masks and times: no system calls, no state of
// its own but the counters of returns that a block keeps.
#pragma once

#include <array>
#include <cstdint>

#include "mirror/page_mask.h"

namespace mirrorcl::mirror {

// The largest aligned region of 2^n pages around `page` of which, with `page` itself, more than `percent` percent of
// the `candidates` are in `present`; {page, 1} if no region is. (NVIDIA UVM's density tree.)
//   present     a set bit means: already where the fault wants the page
//   candidates  a set bit means: the page counts, because it could be there
PageRun dense_region(unsigned page, const PageMask& present, const PageMask& candidates,
                     std::uint32_t percent) noexcept;

// Counts for each page of a block how often it came back from a device within a window of time, up to kMost. Windows
// begin for 16 pages together, so a page may need one return more when its window begins anew; that keeps it small.
class ReturnCounter {
 public:
  static constexpr std::uint32_t kMost = 15;

  // Pages of `run` returned to the host at `now_ms`. A window that has passed starts again.
  void note(PageRun run, std::uint32_t now_ms, std::uint32_t window_ms) noexcept;
  // How often `page` returned within the window that `now_ms` lies in.
  std::uint32_t count(unsigned page, std::uint32_t now_ms, std::uint32_t window_ms) const noexcept;
  // The pages that returned at least `threshold` times within the window that `now_ms` lies in.
  PageMask bouncing(std::uint32_t now_ms, std::uint32_t window_ms, std::uint32_t threshold) const noexcept;
  void forget(PageRun run) noexcept;

 private:
  static constexpr unsigned kGroupPages = 16;
  static constexpr unsigned kGroups = kBlockPages / kGroupPages;
  static constexpr unsigned kBits = 4;  // of a page's count

  static unsigned shift_of(unsigned page) noexcept { return page % kGroupPages * kBits; }

  std::array<std::uint64_t, kGroups> counts_{};
  std::array<std::uint32_t, kGroups> window_start_ms_{};
};

}  // namespace mirrorcl::mirror
