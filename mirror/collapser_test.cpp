// SPDX-License-Identifier: Apache-2.0
// Blocks that come and go as a whole are put together into huge pages.
#include "mirror/collapser.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <memory_resource>

#include "mirror/address_space.h"
#include "mirror/clock.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

constexpr int kMadvCollapse = 25;  // MADV_COLLAPSE, 6.1

Range all(const TestMemory& memory) {
  return {reinterpret_cast<std::uint64_t>(memory.data()), memory.size()};
}

class CollapserTest : public MirrorTest {
 protected:
  void SetUp() override {
    TestMemory memory(kBlockPages);
    write(memory, 1);
    allow_huge_pages(memory);
    for (int i = 0; i < 100 && madvise(memory.data(), memory.size(), kMadvCollapse) != 0; ++i) usleep(1000);
    if (Collapser::is_forbidden() || !space_.is_huge(all(memory))) {
      GTEST_SKIP() << "this kernel puts no huge pages together, may not, or does not tell";
    }
    MirrorTest::SetUp();
  }

  // Pages that are there stay as they are.
  static void allow_huge_pages(const TestMemory& memory) {
    ASSERT_EQ(madvise(memory.data(), memory.size(), MADV_HUGEPAGE), 0);
  }
  static void write(const TestMemory& memory, std::uint64_t first) {
    for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) *memory.word(page) = first + page;
  }
  static void expect_from(const TestMemory& memory, std::uint64_t first) {
    for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) ASSERT_EQ(*memory.word(page), first + page);
  }
  void move_there_and_back(const TestMemory& memory) {
    ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
    mirror_->bring_home(all(memory));
  }
  // It moves again: the kernel may have refused once, while it held a page for something else.
  bool becomes_huge(const TestMemory& memory) {
    for (int i = 0; i < 100 && !space_.is_huge(all(memory)); ++i) {
      move_there_and_back(memory);
      for (int looks = 0; looks < 50 && !space_.is_huge(all(memory)); ++looks) usleep(2000);
    }
    return space_.is_huge(all(memory));
  }
  // Blocks that were noted before this call have been tried when it returns.
  void wait_for_turn() {
    TestMemory memory(kBlockPages);
    write(memory, 1);
    allow_huge_pages(memory);
    move_there_and_back(memory);
    ASSERT_TRUE(becomes_huge(memory));
  }

  AddressSpace space_ = std::move(*AddressSpace::open());
};

TEST_F(CollapserTest, WhatComesAndGoesAsAWholeBecomesHuge) {
  TestMemory memory(3 * kBlockPages);
  write(memory, 100);
  allow_huge_pages(memory);
  move_there_and_back(memory);
  EXPECT_FALSE(space_.is_huge({all(memory).start, kBlockSize}));
  EXPECT_TRUE(becomes_huge(memory));
  expect_from(memory, 100);
  for (std::uint64_t round = 0; round < 3; ++round) {
    ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
    device_.store(memory.word(700), 1000 + round);
    mirror_->bring_home(all(memory));
    EXPECT_TRUE(space_.is_huge(all(memory)));
    EXPECT_EQ(*memory.word(700), 1000 + round);
    *memory.word(700) = 800;
    expect_from(memory, 100);
  }
}

TEST_F(CollapserTest, WhatTheApplicationWantsInSmallPagesStays) {
  TestMemory memory(kBlockPages);  // MADV_NOHUGEPAGE
  write(memory, 1);
  for (int i = 0; i < 3; ++i) move_there_and_back(memory);
  wait_for_turn();
  EXPECT_FALSE(space_.is_huge(all(memory)));
  expect_from(memory, 1);
}

TEST_F(CollapserTest, AProcessThatWantsNoHugePagesGetsNone) {
  TestMemory memory(kBlockPages);
  write(memory, 1);
  allow_huge_pages(memory);
  Collapser collapser(std::pmr::new_delete_resource());
  const auto collapse = [&] {
    for (int i = 0; i < 100 && !space_.is_huge(all(memory)); ++i) {
      collapser.collapse(all(memory).start);
      usleep(1000);
    }
    return space_.is_huge(all(memory));
  };
  ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
  EXPECT_FALSE(collapse());
  ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
  EXPECT_TRUE(collapse());
  expect_from(memory, 1);
}

// Pages that it has given back are not allocated again.
TEST_F(CollapserTest, ABlockWithHolesStays) {
  TestMemory memory(kBlockPages);
  write(memory, 1);
  allow_huge_pages(memory);
  for (int i = 0; i < 2; ++i) move_there_and_back(memory);
  ASSERT_EQ(madvise(memory.word(17), kPageSize, MADV_DONTNEED), 0);
  wait_for_turn();
  PageMask present;
  ASSERT_EQ(space_.present_pages(all(memory), &present), 0);
  EXPECT_EQ(present.count(), kBlockPages - 1);
  EXPECT_EQ(*memory.word(17), 0U);
  EXPECT_EQ(*memory.word(18), 19U);
}

TEST_F(CollapserTest, ABlockThatHasLeftAgainStaysAway) {
  TestMemory memory(kBlockPages);
  write(memory, 1);
  allow_huge_pages(memory);
  for (int i = 0; i < 2; ++i) move_there_and_back(memory);
  ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
  wait_for_turn();
  EXPECT_EQ(device_.pages_in_use(), kBlockPages);
  expect_from(memory, 1);
}

TEST_F(CollapserTest, MemoryThatIsGoneIsNotMissed) {
  {
    TestMemory memory(kBlockPages);
    write(memory, 1);
    allow_huge_pages(memory);
    for (int i = 0; i < 2; ++i) move_there_and_back(memory);
  }
  wait_for_turn();
}

// An access finds nothing, and the kernel allocates a table of small pages before it asks for them.
TEST_F(CollapserTest, WhatAccessesBringHomeStays) {
  constexpr unsigned kBlocks = 8;  // a stream of accesses takes whole ones
  TestMemory memory(kBlocks * kBlockPages);
  write(memory, 1);
  allow_huge_pages(memory);
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
    write(memory, 1);
  }
  wait_for_turn();
  for (unsigned i = 0; i < kBlocks; ++i) {
    EXPECT_FALSE(space_.is_huge({all(memory).start + i * kBlockSize, kBlockSize})) << i;
  }
}

TEST(CollapserOrderTest, BlocksWaitOnceAndInTurn) {
  Collapser collapser(std::pmr::new_delete_resource());
  collapser.open();
  EXPECT_EQ(collapser.next_ns(), kNever);
  collapser.note(3 * kBlockSize);
  collapser.note(kBlockSize);
  collapser.note(3 * kBlockSize);
  EXPECT_LE(collapser.next_ns(), now_ns());
  EXPECT_EQ(collapser.take(), 3 * kBlockSize);
  EXPECT_EQ(collapser.take(), kBlockSize);
  EXPECT_EQ(collapser.next_ns(), kNever);
}

TEST(CollapserOrderTest, RestsLongerThanItWorks) {
  Collapser collapser(std::pmr::new_delete_resource());
  collapser.open();
  TestMemory memory(kBlockPages);  // MADV_NOHUGEPAGE: refused
  const std::uint64_t begin = now_ns();
  collapser.collapse(all(memory).start);
  const std::uint64_t took = now_ns() - begin;
  collapser.note(kBlockSize);
  EXPECT_GT(collapser.next_ns(), begin);
  EXPECT_LE(collapser.next_ns(), begin + 5 * took);
}

}  // namespace
}  // namespace mirrorcl::mirror
