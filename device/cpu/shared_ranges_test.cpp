// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/shared_ranges.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <random>
#include <tuple>
#include <vector>

namespace mirrorcl::device {
namespace {

using List = std::vector<std::tuple<std::uint64_t, std::uint64_t, int>>;  // start, size, memory

List list_of(const SharedRanges& ranges) {
  List list;
  for (const SharedRange& shared : ranges) list.emplace_back(shared.range.start, shared.range.size, shared.memory);
  return list;
}

TEST(SharedRanges, NeighboursInOneMemoryBecomeOneRange) {
  SharedRanges ranges;
  ranges.add({40, 10}, 1);
  ranges.add({10, 10}, 1);
  ranges.add({20, 20}, 1);
  EXPECT_EQ(list_of(ranges), (List{{10, 40, 1}}));
  ranges.add({50, 10}, 2);
  EXPECT_EQ(list_of(ranges), (List{{10, 40, 1}, {50, 10, 2}}));
}

TEST(SharedRanges, TheLaterMemoryCounts) {
  SharedRanges ranges;
  ranges.add({0, 100}, 1);
  ranges.add({30, 40}, 2);
  EXPECT_EQ(list_of(ranges), (List{{0, 30, 1}, {30, 40, 2}, {70, 30, 1}}));
  ranges.add({30, 40}, 1);
  EXPECT_EQ(list_of(ranges), (List{{0, 100, 1}}));
}

TEST(SharedRanges, RemovalCutsWhatItOverlaps) {
  SharedRanges ranges;
  ranges.add({0, 100}, 1);
  ranges.remove({40, 20});
  EXPECT_EQ(list_of(ranges), (List{{0, 40, 1}, {60, 40, 1}}));
  ranges.remove({0, 40});
  ranges.remove({90, 100});
  ranges.remove({200, 10});
  EXPECT_EQ(list_of(ranges), (List{{60, 30, 1}}));
}

TEST(SharedRanges, AgreeWithAPlainMap) {
  constexpr std::uint64_t kSpace = 60;
  std::mt19937 random(1);
  SharedRanges ranges;
  std::map<std::uint64_t, int> plain;
  for (int step = 0; step < 5000; ++step) {
    const std::uint64_t start = random() % kSpace;
    const std::uint64_t size = 1 + random() % 8;
    const int memory = static_cast<int>(random() % 3);  // 0: none
    if (memory == 0)
      ranges.remove({start, size});
    else
      ranges.add({start, size}, memory);
    for (std::uint64_t at = start; at < start + size; ++at) plain[at] = memory;
    std::map<std::uint64_t, int> found;
    std::uint64_t last_end = 0;
    int last_memory = 0;
    for (const SharedRange& shared : ranges) {
      ASSERT_TRUE(shared.range.start > last_end || shared.memory != last_memory) << "step " << step;
      ASSERT_GE(shared.range.start, last_end);
      for (std::uint64_t at = shared.range.start; at < shared.range.end(); ++at) found[at] = shared.memory;
      last_end = shared.range.end();
      last_memory = shared.memory;
    }
    for (std::uint64_t at = 0; at < kSpace + 8; ++at)
      ASSERT_EQ(found[at], plain[at]) << "step " << step << " at " << at;
  }
}

}  // namespace
}  // namespace mirrorcl::device
