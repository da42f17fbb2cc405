// SPDX-License-Identifier: Apache-2.0
// The table of range policies against a naive model with one policy per page, and its readers against concurrent
// changes.
#include "hms/policy.h"

#include <errno.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

namespace mirrorcl::hms {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kBase = 0x7f00'0000'0000;

AddressRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPage, kBase + (first + count) * kPage};
}

PolicyTable::Pointer make_table(const PolicyLimits& limits = {}) {
  auto table = PolicyTable::create(std::pmr::new_delete_resource(), limits);
  EXPECT_TRUE(table.has_value());
  return std::move(*table);
}

PolicyChange bind_to(std::span<const std::uint32_t> targets) {
  PolicyChange change;
  change.bind = targets;
  return change;
}

PolicyChange prefer(std::uint32_t target) {
  PolicyChange change;
  change.preferred = target;
  return change;
}

struct Entry {
  AddressRange range;
  std::vector<std::uint32_t> bind;
  std::uint32_t preferred;
  std::vector<std::uint32_t> accessed_by;
  bool read_mostly;
  bool operator==(const Entry&) const = default;
};

Entry entry(AddressRange range, const Policy& policy) {
  return {range,
          {policy.bind.begin(), policy.bind.end()},
          policy.preferred,
          {policy.accessed_by.begin(), policy.accessed_by.end()},
          policy.read_mostly};
}

std::vector<Entry> contents(PolicyTable& table, AddressRange range = {0, ~std::uint64_t{0}}) {
  std::vector<Entry> entries;
  table.for_each(range, [&](AddressRange where, const Policy& policy) { entries.push_back(entry(where, policy)); });
  return entries;
}

TEST(PolicyTable, IsEmptyAtFirst) {
  auto table = make_table();
  EXPECT_EQ(table->range_count(), 0U);
  PolicyReader reader(*table);
  auto found = reader.find(kBase);
  EXPECT_TRUE(found.policy.empty());
  EXPECT_EQ(found.range, (AddressRange{0, ~std::uint64_t{0}}));
}

TEST(PolicyTable, LookupFindsExactlyTheRange) {
  auto table = make_table();
  std::array<std::uint32_t, 2> targets{7, 3};
  ASSERT_EQ(table->change(pages(10, 5), bind_to(targets)), 0);
  PolicyReader reader(*table);
  EXPECT_TRUE(reader.find(pages(9, 1).start).policy.empty());
  EXPECT_TRUE(reader.find(pages(15, 1).start).policy.empty());
  for (std::uint64_t page = 10; page < 15; ++page) {
    auto found = reader.find(pages(page, 1).start + 123);
    EXPECT_EQ(found.range, pages(10, 5));
    EXPECT_TRUE(std::ranges::equal(found.policy.bind, targets));
  }
  EXPECT_EQ(reader.find(pages(9, 1).start).range.end, pages(10, 1).start);
  EXPECT_EQ(reader.find(pages(15, 1).start).range.start, pages(15, 1).start);
}

TEST(PolicyTable, AChangeInTheMiddleSplitsAndEqualNeighboursMerge) {
  auto table = make_table();
  ASSERT_EQ(table->change(pages(0, 10), prefer(1)), 0);
  ASSERT_EQ(table->change(pages(3, 2), prefer(2)), 0);
  auto split = contents(*table);
  ASSERT_EQ(split.size(), 3U);
  EXPECT_EQ(split[0].range, pages(0, 3));
  EXPECT_EQ(split[1].range, pages(3, 2));
  EXPECT_EQ(split[1].preferred, 2U);
  EXPECT_EQ(split[2].range, pages(5, 5));
  ASSERT_EQ(table->change(pages(3, 2), prefer(1)), 0);
  auto merged = contents(*table);
  ASSERT_EQ(merged.size(), 1U);
  EXPECT_EQ(merged[0].range, pages(0, 10));
}

TEST(PolicyTable, ChangesOfDifferentKindsAddUp) {
  auto table = make_table();
  std::array<std::uint32_t, 1> initiators{42};
  PolicyChange change;
  change.accessed_by = initiators;
  change.read_mostly = true;
  ASSERT_EQ(table->change(pages(0, 4), change), 0);
  ASSERT_EQ(table->change(pages(2, 4), prefer(5)), 0);
  auto entries = contents(*table);
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[1], (Entry{pages(2, 2), {}, 5, {42}, true}));
  EXPECT_EQ(entries[2], (Entry{pages(4, 2), {}, 5, {}, false}));
}

TEST(PolicyTable, TakingBackTheLastWishRemovesTheRange) {
  auto table = make_table();
  ASSERT_EQ(table->change(pages(0, 4), prefer(5)), 0);
  ASSERT_EQ(table->change(pages(0, 4), prefer(kNoUid)), 0);
  EXPECT_EQ(table->range_count(), 0U);
}

TEST(PolicyTable, DropCutsRangesThatReachBeyond) {
  auto table = make_table();
  ASSERT_EQ(table->change(pages(0, 10), prefer(1)), 0);
  table->drop(pages(4, 2));
  auto entries = contents(*table);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].range, pages(0, 4));
  EXPECT_EQ(entries[1].range, pages(6, 4));
}

TEST(PolicyTable, FullTableRefusesChangesWholeAndStillDrops) {
  auto table = make_table({.ranges = 64, .list_words = 1024});
  unsigned accepted = 0;
  while (table->change(pages(accepted * 2, 1), prefer(accepted)) == 0) ++accepted;
  EXPECT_GE(accepted, 60U);
  EXPECT_LE(accepted, 64U);
  auto before = contents(*table);
  std::array<std::uint32_t, 1> target{1};
  EXPECT_EQ(table->change(pages(0, 400), bind_to(target)), -ENOMEM);
  EXPECT_EQ(contents(*table), before);
  table->drop(pages(0, 1000));
  EXPECT_EQ(table->range_count(), 0U);
  EXPECT_EQ(table->change(pages(0, 400), bind_to(target)), 0);
}

TEST(PolicyTable, DropsThatCutNeverFail) {
  auto table = make_table({.ranges = 8, .list_words = 64});
  ASSERT_EQ(table->change(pages(0, 10'000), prefer(1)), 0);
  for (std::uint64_t page = 1; page < 10'000; page += 2) {
    table->drop(pages(page, 1));
    PolicyReader reader(*table);
    ASSERT_TRUE(reader.find(pages(page, 1).start).policy.empty()) << page;
  }
}

TEST(PolicyTable, ListsAreRecycled) {
  auto table = make_table({.ranges = 16, .list_words = 32'768});
  std::vector<std::uint32_t> longest(1024);
  for (std::uint32_t round = 0; round < 1000; ++round) {
    std::ranges::fill(longest, round);
    std::span<const std::uint32_t> targets(longest.data(), 1 + round * 7 % 1024);
    ASSERT_EQ(table->change(pages(round % 3, 2), bind_to(targets)), 0) << round;
    PolicyReader reader(*table);
    EXPECT_TRUE(std::ranges::equal(reader.find(pages(round % 3, 1).start).policy.bind, targets));
  }
}

TEST(PolicyTable, ListsThatDoNotFitAreRefusedWhole) {
  auto table = make_table({.ranges = 16, .list_words = 1024});
  std::vector<std::uint32_t> longest(1024, 1);
  EXPECT_EQ(table->change(pages(0, 1), bind_to(longest)), -ENOMEM);
  EXPECT_EQ(table->range_count(), 0U);
  EXPECT_EQ(table->change(pages(0, 1), bind_to(std::span(longest).first(8))), 0);
}

// One policy per page, as simple as can be.
class NaiveTable {
 public:
  explicit NaiveTable(std::size_t size) : pages_(size, Entry{{}, {}, kNoUid, {}, false}) {}

  void change(std::size_t first, std::size_t count, const PolicyChange& change) {
    for (std::size_t page = first; page < first + count; ++page) {
      Entry& e = pages_[page];
      if (change.bind) e.bind.assign(change.bind->begin(), change.bind->end());
      if (change.preferred) e.preferred = *change.preferred;
      if (change.accessed_by) e.accessed_by.assign(change.accessed_by->begin(), change.accessed_by->end());
      if (change.read_mostly) e.read_mostly = *change.read_mostly;
    }
  }
  void drop(std::size_t first, std::size_t count) {
    std::fill_n(pages_.begin() + static_cast<std::ptrdiff_t>(first), count, Entry{{}, {}, kNoUid, {}, false});
  }
  // Maximal runs of pages with equal policies.
  std::vector<Entry> contents() const {
    std::vector<Entry> entries;
    for (std::size_t page = 0; page < pages_.size(); ++page) {
      Entry here = pages_[page];
      if (here.bind.empty() && here.preferred == kNoUid && here.accessed_by.empty() && !here.read_mostly) continue;
      here.range = pages(page, 1);
      if (!entries.empty() && entries.back().range.end == here.range.start) {
        Entry joined = entries.back();
        here.range.start = joined.range.start;
        joined.range.end = here.range.end;
        if (joined == here) {
          entries.back() = joined;
          continue;
        }
        here.range.start = pages(page, 1).start;
      }
      entries.push_back(here);
    }
    return entries;
  }

 private:
  static AddressRange pages(std::size_t first, std::size_t count) { return hms::pages(first, count); }
  std::vector<Entry> pages_;
};

TEST(PolicyTable, EqualsANaiveModelUnderRandomChanges) {
  constexpr std::size_t kPages = 400;
  auto seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  auto table = make_table();
  NaiveTable naive(kPages);
  std::uniform_int_distribution<std::uint32_t> small(0, 2);
  for (int step = 0; step < 20'000; ++step) {
    std::size_t first = random() % kPages;
    std::size_t count = 1 + random() % std::min<std::size_t>(kPages - first, random() % 4 == 0 ? kPages : 12);
    std::array<std::uint32_t, 3> uids;
    for (std::uint32_t& uid : uids) uid = small(random);
    std::span<const std::uint32_t> list = std::span(uids).first(random() % 4);
    PolicyChange change;
    switch (random() % 8) {
      case 0:
        table->drop(pages(first, count));
        naive.drop(first, count);
        break;
      case 1:
        table->drop_unmapped(pages(first, count));
        naive.drop(first, count);
        break;
      case 2:
        change.preferred = random() % 3 == 0 ? kNoUid : small(random);
        break;
      case 3:
        change.accessed_by = list;
        break;
      case 4:
        change.read_mostly = random() % 2 == 0;
        break;
      case 5:
        change.bind = list;
        change.read_mostly = random() % 2 == 0;
        break;
      default:
        change.bind = list;
    }
    ASSERT_EQ(table->change(pages(first, count), change), 0);
    naive.change(first, count, change);
    if (step % 16 != 0) continue;
    auto expected = naive.contents();
    ASSERT_EQ(contents(*table), expected) << "step " << step;
    ASSERT_EQ(table->range_count(), expected.size());
    PolicyReader reader(*table);
    for (const Entry& e : expected) {
      auto found = reader.find(e.range.end - 1);
      ASSERT_EQ(entry(found.range, found.policy), e);
    }
  }
}

// Writers set both `preferred` and `bind` of a page to the same value; a reader that sees them differ, or a list of
// mixed values, has seen memory that was recycled under it.
TEST(PolicyTable, ReadersSeeOnlyWholeVersionsWhileWritersChange) {
  constexpr std::uint64_t kPages = 64;
  auto table = make_table({.ranges = 256, .list_words = 4096});
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> lookups{0};
  std::atomic<std::uint64_t> wrong{0};
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      std::mt19937 random(static_cast<unsigned>(r));
      do {
        {
          PolicyReader reader(*table);
          auto found = reader.find(pages(random() % kPages, 1).start);
          for (std::uint32_t uid : found.policy.bind) wrong += uid != found.policy.preferred ? 1 : 0;
        }
        if (++lookups % 32 == 0) std::this_thread::yield();
      } while (!stop);
    });
  }
  for (unsigned w = 0; w < 3; ++w) {
    threads.emplace_back([&, w] {
      std::mt19937 random(100 + w);
      std::array<std::uint32_t, 40> list;
      for (int i = 0; i < 1000; ++i) {
        std::uint64_t first = random() % kPages;
        AddressRange range = pages(first, 1 + random() % (kPages - first));
        if (w == 2) {
          table->drop_unmapped(range);
          continue;
        }
        list.fill(static_cast<std::uint32_t>(random() % 1000));
        PolicyChange change;
        change.preferred = list[0];
        change.bind = std::span(list).first(1 + random() % list.size());
        if (table->change(range, change) != 0) ++wrong;
      }
    });
  }
  for (std::size_t t = 2; t < threads.size(); ++t) threads[t].join();
  stop = true;
  threads[0].join();
  threads[1].join();
  EXPECT_EQ(wrong, 0U);
  EXPECT_GT(lookups, 0U);
}

TEST(PolicyTable, UnmappingNeverWaitsForAStoppedChange) {
  auto table = make_table();
  ASSERT_EQ(table->change(pages(0, 1000), prefer(1)), 0);
  // for_each holds the lock, as a thread does that is stopped in the middle of a change.
  table->for_each(pages(0, 1), [&](AddressRange, const Policy&) {
    for (std::uint64_t page = 0; page < 20; page += 2) table->drop_unmapped(pages(page, 1));
    PolicyReader reader(*table);
    for (std::uint64_t page = 0; page < 20; ++page) {
      auto found = reader.find(pages(page, 1).start);
      EXPECT_EQ(found.policy.empty(), page % 2 == 0) << page;
      EXPECT_TRUE(found.range.contains(pages(page, 1).start));
      if (page < 19) {
        EXPECT_EQ(found.range.size(), kPage) << page;
      }
    }
  });
  EXPECT_EQ(table->range_count(), 10U);
  PolicyReader reader(*table);
  EXPECT_TRUE(reader.find(pages(4, 1).start).policy.empty());
  EXPECT_EQ(reader.find(pages(5, 1).start).policy.preferred, 1U);
}

TEST(PolicyTable, ANewPolicyAfterAnUnmappingHolds) {
  auto table = make_table();
  ASSERT_EQ(table->change(pages(0, 10), prefer(1)), 0);
  table->for_each(pages(0, 1), [&](AddressRange, const Policy&) { table->drop_unmapped(pages(0, 10)); });
  ASSERT_EQ(table->change(pages(2, 2), prefer(2)), 0);
  auto entries = contents(*table);
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(entries[0], (Entry{pages(2, 2), {}, 2, {}, false}));
}

TEST(PolicyTable, TooManyNotesDropAllAndSaySo) {
  auto table = make_table();
  ASSERT_EQ(table->change(pages(0, 10'000), prefer(1)), 0);
  table->for_each(pages(0, 1), [&](AddressRange, const Policy&) {
    for (std::uint64_t page = 0; page < 2 * (PolicyTable::kPendingDrops + 1); page += 2) {
      table->drop_unmapped(pages(page, 1));
    }
    // Ranges without a policy need no note.
    table->drop_unmapped(pages(20'000, 10));
    PolicyReader reader(*table);
    EXPECT_TRUE(reader.find(pages(0, 1).start).policy.empty());
    EXPECT_TRUE(reader.find(pages(9'999, 1).start).policy.empty());
  });
  EXPECT_EQ(table->dropped_all(), 1U);
  EXPECT_EQ(table->range_count(), 0U);
  ASSERT_EQ(table->change(pages(0, 10), prefer(1)), 0);
  PolicyReader reader(*table);
  EXPECT_EQ(reader.find(pages(0, 1).start).policy.preferred, 1U);
}

}  // namespace
}  // namespace mirrorcl::hms
