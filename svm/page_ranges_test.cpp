// SPDX-License-Identifier: Apache-2.0
#include "svm/page_ranges.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace mirrorcl::svm {
namespace {

constexpr std::uint64_t kPage = 4096;

TEST(PageRanges, NeighboursJoinInAnyOrder) {
  PageRanges ranges;
  ranges.insert(0 * kPage, kPage);
  ranges.insert(2 * kPage, kPage);
  EXPECT_EQ(ranges.range_count(), 2u);
  ranges.insert(1 * kPage, kPage);
  EXPECT_EQ(ranges.range_count(), 1u);
  EXPECT_EQ(ranges.free_bytes(), 3 * kPage);
  EXPECT_EQ(ranges.take(3 * kPage, kPage), std::uint64_t{0});
  EXPECT_EQ(ranges.free_bytes(), 0u);
}

TEST(PageRanges, TakesTheSmallestRangeThatFits) {
  PageRanges ranges;
  ranges.insert(0, 10 * kPage);
  ranges.insert(100 * kPage, 2 * kPage);
  EXPECT_EQ(ranges.take(2 * kPage, kPage), 100 * kPage);
  EXPECT_EQ(ranges.take(2 * kPage, kPage), std::uint64_t{0});
  EXPECT_EQ(ranges.take(9 * kPage, kPage), std::nullopt);
}

TEST(PageRanges, AlignmentCutsAndKeepsBothEnds) {
  PageRanges ranges;
  ranges.insert(3 * kPage, 20 * kPage);
  EXPECT_EQ(ranges.take(2 * kPage, 8 * kPage), 8 * kPage);
  EXPECT_EQ(ranges.range_count(), 2u);
  EXPECT_EQ(ranges.free_bytes(), 18 * kPage);
  EXPECT_EQ(ranges.take(5 * kPage, kPage), 3 * kPage);
}

TEST(PageRanges, AlignmentThatDoesNotFitTakesALargerRange) {
  PageRanges ranges;
  ranges.insert(1 * kPage, 4 * kPage);    // holds 4 pages, but none at a multiple of 8
  ranges.insert(17 * kPage, 16 * kPage);  // 24 is inside
  EXPECT_EQ(ranges.take(4 * kPage, 8 * kPage), 24 * kPage);
}

TEST(PageRanges, RandomUseLosesAndOverlapsNothing) {
  constexpr std::uint64_t kPages = 512;
  PageRanges ranges;
  ranges.insert(0, kPages * kPage);
  std::vector<bool> used(kPages, false);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> taken;
  std::mt19937 random(42);
  for (int i = 0; i < 20'000; ++i) {
    if (taken.empty() || random() % 2 == 0) {
      const std::uint64_t pages = 1 + random() % 20;
      const std::uint64_t alignment = kPage << (random() % 4);
      if (auto start = ranges.take(pages * kPage, alignment)) {
        ASSERT_EQ(*start % alignment, 0u);
        for (std::uint64_t page = *start / kPage; page < *start / kPage + pages; ++page) {
          ASSERT_FALSE(used.at(page));
          used[page] = true;
        }
        taken.emplace_back(*start, pages * kPage);
      }
    } else {
      const std::size_t index = random() % taken.size();
      const auto [start, size] = taken[index];
      taken[index] = taken.back();
      taken.pop_back();
      for (std::uint64_t page = start / kPage; page < (start + size) / kPage; ++page) used[page] = false;
      ranges.insert(start, size);
    }
  }
  for (const auto& [start, size] : taken) ranges.insert(start, size);
  EXPECT_EQ(ranges.range_count(), 1u);
  EXPECT_EQ(ranges.free_bytes(), kPages * kPage);
}

}  // namespace
}  // namespace mirrorcl::svm
