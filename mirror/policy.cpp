// SPDX-License-Identifier: Apache-2.0
#include "mirror/policy.h"

namespace mirrorcl::mirror {

PageRun dense_region(unsigned page, const PageMask& present, const PageMask& candidates,
                     std::uint32_t percent) noexcept {
  PageMask with_page = present & candidates;
  with_page.set(page);
  PageMask all_candidates = candidates;
  all_candidates.set(page);
  for (unsigned size = kBlockPages; size >= 2; size /= 2) {
    PageRun region{page & ~(size - 1), size};
    if (with_page.count(region) * 100ULL > std::uint64_t{percent} * all_candidates.count(region)) return region;
  }
  return {page, 1};
}

void ReturnCounter::note(PageRun run, std::uint32_t now_ms, std::uint32_t window_ms) noexcept {
  for (unsigned page = run.first; page < run.end(); ++page) {
    const unsigned group = page / kGroupPages;
    if (counts_[group] == 0 || now_ms - window_start_ms_[group] > window_ms) {
      window_start_ms_[group] = now_ms;
      counts_[group] = 0;
    }
    if ((counts_[group] >> shift_of(page) & kMost) != kMost) counts_[group] += std::uint64_t{1} << shift_of(page);
  }
}

std::uint32_t ReturnCounter::count(unsigned page, std::uint32_t now_ms, std::uint32_t window_ms) const noexcept {
  const unsigned group = page / kGroupPages;
  if (now_ms - window_start_ms_[group] > window_ms) return 0;
  return static_cast<std::uint32_t>(counts_[group] >> shift_of(page) & kMost);
}

PageMask ReturnCounter::bouncing(std::uint32_t now_ms, std::uint32_t window_ms,
                                 std::uint32_t threshold) const noexcept {
  PageMask mask;
  for (unsigned page = 0; page < kBlockPages; ++page) {
    const std::uint32_t returns = count(page, now_ms, window_ms);
    if (returns > 0 && returns >= threshold) mask.set(page);
  }
  return mask;
}

void ReturnCounter::forget(PageRun run) noexcept {
  for (unsigned page = run.first; page < run.end(); ++page) {
    counts_[page / kGroupPages] &= ~(std::uint64_t{kMost} << shift_of(page));
  }
}

}  // namespace mirrorcl::mirror
