// SPDX-License-Identifier: Apache-2.0
// Page masks, blocks, the block table, policy, and the parsing of the kernel's list of mappings: no mirror runs here.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <memory_resource>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "mirror/address_space.h"
#include "mirror/block_table.h"
#include "mirror/ordered_lock.h"
#include "mirror/policy.h"

namespace mirrorcl::mirror {
namespace {

TEST(PageMaskTest, RunsAcrossWords) {
  PageMask mask;
  EXPECT_TRUE(mask.none());
  mask.set(PageRun{60, 70});
  EXPECT_EQ(mask.count(), 70U);
  EXPECT_EQ(mask.next_run(0), (PageRun{60, 70}));
  EXPECT_EQ(mask.next_run(130).count, 0U);
  mask.clear(PageRun{64, 64});
  EXPECT_EQ(mask.next_run(0), (PageRun{60, 4}));
  EXPECT_EQ(mask.next_run(64), (PageRun{128, 2}));
  EXPECT_TRUE(mask.test(129));
  EXPECT_FALSE(mask.test(130));
}

TEST(PageMaskTest, WholeBlock) {
  PageMask mask = PageMask::all();
  EXPECT_EQ(mask.count(), kBlockPages);
  EXPECT_EQ(mask.next_run(0), (PageRun{0, kBlockPages}));
  EXPECT_TRUE((~mask).none());
  mask.clear(511U);
  EXPECT_EQ(mask.find_clear(0), 511U);
  EXPECT_TRUE(mask.all_of({0, 511}));
  EXPECT_FALSE(mask.all_of({0, 512}));
}

TEST(PolicyTest, IsolatedFaultTakesOnePage) {
  EXPECT_EQ(dense_region(77, PageMask{}, PageMask::all(), 51), (PageRun{77, 1}));
}

TEST(PolicyTest, DenseRegionGrows) {
  PageMask present(PageRun{0, 4});
  EXPECT_EQ(dense_region(4, present, PageMask::all(), 51), (PageRun{0, 8}));
  EXPECT_EQ(dense_region(6, PageMask(PageRun{0, 3}), PageMask::all(), 51), (PageRun{6, 1}));
  EXPECT_EQ(dense_region(300, PageMask(PageRun{0, 280}), PageMask::all(), 51), (PageRun{0, 512}));
}

TEST(PolicyTest, OnlyCandidatesCount) {
  // A mapping of 8 pages: 5 of 8 present is dense whatever lies around it.
  PageMask mapping(PageRun{16, 8});
  EXPECT_EQ(dense_region(20, PageMask(PageRun{16, 4}), mapping, 51), (PageRun{0, 512}));
  EXPECT_EQ(dense_region(20, PageMask(PageRun{0, 16}), mapping, 51), (PageRun{20, 1}))
      << "pages outside of the mapping are not evidence";
}

TEST(PolicyTest, ReturnsOfPagesAreTheirOwn) {
  ReturnCounter counter;
  for (int i = 0; i < 40; ++i) counter.note({17, 1}, 1000, 100);
  counter.note({16, 3}, 1010, 100);
  EXPECT_EQ(counter.count(16, 1010, 100), 1U);
  EXPECT_EQ(counter.count(17, 1010, 100), ReturnCounter::kMost);
  EXPECT_EQ(counter.count(18, 1010, 100), 1U);
  EXPECT_EQ(counter.count(19, 1010, 100), 0U);
  counter.forget({17, 1});
  EXPECT_EQ(counter.count(16, 1010, 100), 1U);
  EXPECT_EQ(counter.count(17, 1010, 100), 0U);
  EXPECT_EQ(counter.bouncing(1010, 100, 1).count(), 2U);
}

TEST(PolicyTest, ReturnsCountWithinTheirWindow) {
  auto counter = std::make_unique<ReturnCounter>();
  counter->note({5, 1}, 1000, 100);
  EXPECT_EQ(counter->count(5, 1000, 100), 1U);
  counter->note({5, 1}, 1050, 100);
  EXPECT_EQ(counter->count(5, 1060, 100), 2U);
  EXPECT_EQ(counter->count(5, 1101, 100), 0U) << "the window has passed";
  counter->note({5, 1}, 1200, 100);
  EXPECT_EQ(counter->count(5, 1200, 100), 1U) << "a new window begins with one return";
  EXPECT_EQ(counter->bouncing(1200, 100, 1).count(), 1U);
  counter->forget({0, 512});
  EXPECT_TRUE(counter->bouncing(1200, 100, 1).none());
}

TEST(BlockTest, TransitionsKeepOneStatePerPage) {
  Block block(0x40000000);
  block.mark_registered({0, 16});
  EXPECT_EQ(block.state(3), PageState::kHost);
  block.host_to_device(0, {0, 8});
  EXPECT_EQ(block.state(3), PageState::kDevice);
  block.device_to_coherent(0, {2, 2});
  EXPECT_EQ(block.state(3), PageState::kCoherent);
  EXPECT_EQ(block.state(1), PageState::kDevice);
  block.coherent_to_device(0, {2, 2});
  block.device_to_host(0, {0, 8});
  EXPECT_EQ(block.returned().count(), 8U);
  EXPECT_TRUE(block.in_device_memory().none());
  block.host_to_snapshot(0, {100, 4});
  EXPECT_EQ(block.state(101), PageState::kSnapshot);
  block.forget({0, kBlockPages});
  EXPECT_TRUE(block.empty());
}

#ifndef NDEBUG
TEST(BlockDeathTest, TransitionFromTheWrongStateIsCaught) {
  Block block(0);
  block.mark_registered({0, 1});
  EXPECT_DEATH(block.device_to_host(0, {0, 1}), "device.all_of");
  EXPECT_DEATH(block.host_to_device(0, {5, 1}), "registered_");
}
#endif

TEST(BlockTest, PagesOfARange) {
  Block block(0x40000000);
  EXPECT_EQ(block.pages({0x40001000, 0x3000}), (PageRun{1, 3}));
  EXPECT_EQ(block.pages({0x3ffff000, 0x3000}), (PageRun{0, 2}));
  EXPECT_EQ(block.pages({0x30000000, 0x100000000}), (PageRun{0, 512}));
  EXPECT_EQ(block.pages({0x50000000, 0x1000}).count, 0U);
}

TEST(BlockTableTest, FindsAndWalksFarApart) {
  std::pmr::monotonic_buffer_resource memory;
  auto table = std::make_unique<BlockTable>(&memory);
  std::vector<std::uint64_t> addresses = {0x10000, 0x40000000, 0x40200000, 0x555500000000, 0x7ffffffff000};
  for (std::uint64_t address : addresses) table->find_or_create(address).mark_registered({0, 1});
  EXPECT_EQ(table->size(), addresses.size());
  EXPECT_EQ(table->find(0x40200fff)->base(), 0x40200000U);
  EXPECT_EQ(table->find(0x40400000), nullptr);
  EXPECT_EQ(table->find(0xffff'8000'0000'0000), nullptr);
  std::vector<std::uint64_t> seen;
  table->for_each({0, std::uint64_t{1} << 47}, [&](Block& block) { seen.push_back(block.base()); });
  EXPECT_EQ(seen.size(), addresses.size());
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  table->for_each({0x40000000, 0x400000}, [&](Block& block) {
    block.forget({0, kBlockPages});
    table->remove_if_empty(block);
  });
  EXPECT_EQ(table->find(0x40000000), nullptr);
  EXPECT_EQ(table->size(), addresses.size() - 2);
}

TEST(AddressSpaceTest, ParsesLinesOfMaps) {
  MappingInfo info;
  ASSERT_TRUE(parse_maps_line("7f0000000000-7f0000021000 rw-p 00000000 00:00 0 ", &info));
  EXPECT_EQ(info.range.start, 0x7f0000000000U);
  EXPECT_EQ(info.range.size, 0x21000U);
  EXPECT_TRUE(info.migratable());
  ASSERT_TRUE(parse_maps_line("55d0-66d0 r-xp 00001000 fe:00 332383                     /usr/bin/a b", &info));
  EXPECT_FALSE(info.anonymous);
  EXPECT_FALSE(info.writable());
  EXPECT_FALSE(info.migratable());
  ASSERT_TRUE(parse_maps_line("1000-2000 rw-s 00000000 00:01 1047 /memfd:x (deleted)", &info));
  EXPECT_TRUE(info.shared);
  ASSERT_TRUE(parse_maps_line("1000-2000 rw-s 00000000 00:01 0 /SYSV00000000 (deleted)", &info));
  EXPECT_FALSE(info.migratable()) << "shared memory may have inode 0";
  ASSERT_TRUE(parse_maps_line("1000-2000 rw-p 00000000 00:00 0                          [heap]", &info));
  EXPECT_TRUE(info.migratable());
  EXPECT_FALSE(parse_maps_line("", &info));
  EXPECT_FALSE(parse_maps_line("1000 rw-p", &info));
  EXPECT_FALSE(parse_maps_line("2000-1000 rw-p 00000000 00:00 0", &info));
}

TEST(AddressSpaceTest, QueryAndFileAgree) {
  auto fast = AddressSpace::open();
  auto slow = AddressSpace::open();
  ASSERT_TRUE(fast.has_value() && slow.has_value());
  slow->use_maps_file();
  static int bss[4096];
  int stack = 0;
  auto* page = static_cast<char*>(mmap(nullptr, 3 * kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_EQ(mprotect(page + kPageSize, kPageSize, PROT_READ | PROT_WRITE), 0);
  for (const void* address :
       {static_cast<const void*>(bss), static_cast<const void*>(&stack), static_cast<const void*>(page),
        static_cast<const void*>(page + kPageSize), reinterpret_cast<const void*>(&parse_maps_line),
        static_cast<const void*>(nullptr), reinterpret_cast<const void*>(0x300000000000)}) {
    auto a = fast->query(reinterpret_cast<std::uint64_t>(address));
    auto b = slow->query(reinterpret_cast<std::uint64_t>(address));
    ASSERT_EQ(a.has_value(), b.has_value()) << address;
    if (!a) continue;
    EXPECT_EQ(a->range.start, b->range.start);
    EXPECT_EQ(a->range.size, b->range.size);
    EXPECT_EQ(a->protection, b->protection);
    EXPECT_EQ(a->anonymous, b->anonymous);
    EXPECT_EQ(a->shared, b->shared);
  }
  EXPECT_TRUE(fast->query(reinterpret_cast<std::uint64_t>(page + kPageSize))->migratable());
  EXPECT_FALSE(fast->query(reinterpret_cast<std::uint64_t>(page))->migratable());
}

TEST(AddressSpaceTest, ExclusionsCutMappings) {
  auto space = AddressSpace::open();
  ASSERT_TRUE(space.has_value());
  auto* memory =
      static_cast<char*>(mmap(nullptr, 8 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto start = reinterpret_cast<std::uint64_t>(memory);
  space->exclude({start + 2 * kPageSize, 2 * kPageSize});
  EXPECT_TRUE(space->query(start)->migratable());
  EXPECT_EQ(space->query(start)->range.end(), start + 2 * kPageSize);
  EXPECT_FALSE(space->query(start + 3 * kPageSize)->migratable());
  EXPECT_TRUE(space->query(start + 4 * kPageSize)->migratable());
  EXPECT_EQ(space->query(start + 4 * kPageSize)->range.start, start + 4 * kPageSize);
}

TEST(AddressSpaceTest, PresentPagesAndReads) {
  auto space = AddressSpace::open();
  ASSERT_TRUE(space.has_value());
  auto* memory =
      static_cast<char*>(mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memory[kPageSize] = 7;
  PageMask present;
  ASSERT_EQ(space->present_pages({reinterpret_cast<std::uint64_t>(memory), 4 * kPageSize}, &present), 0);
  EXPECT_EQ(present.count(), 1U);
  EXPECT_TRUE(present.test(1));
  char value = 0;
  EXPECT_EQ(space->read(reinterpret_cast<std::uint64_t>(memory) + kPageSize, &value, 1), 0);
  EXPECT_EQ(value, 7);
  munmap(memory, 4 * kPageSize);
  EXPECT_LT(space->read(reinterpret_cast<std::uint64_t>(memory) + kPageSize, &value, 1), 0);
}

TEST(OrderedLock, LocksNestInTheirOrder) {
  Mutex first;
  Mutex second;
  int count = 0;
  const auto count_up = [&] {
    for (int i = 0; i < 10'000; ++i) {
      OrderedLock outer(first, LockOrder::kStart);
      OrderedLock inner(second, LockOrder::kPublish);
      OrderedScope innermost(LockOrder::kRequest);
      ++count;
    }
  };
  std::thread other(count_up);
  count_up();
  other.join();
  EXPECT_EQ(count, 20'000);
}

#ifndef NDEBUG
TEST(OrderedLockDeathTest, TheOtherWayRoundIsAnError) {
  Mutex first;
  Mutex second;
  OrderedLock outer(second, LockOrder::kPublish);
  EXPECT_DEATH(OrderedLock(first, LockOrder::kStart), "order of locking.h");
  EXPECT_DEATH(OrderedLock(first, LockOrder::kPublish), "order of locking.h");
}
#endif

}  // namespace
}  // namespace mirrorcl::mirror
