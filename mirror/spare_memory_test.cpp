// SPDX-License-Identifier: Apache-2.0
// Memory that whole blocks leave behind when they go to a device, and that others come home in.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory_resource>

#include "device/window.h"
#include "mirror/address_space.h"
#include "mirror/host_nodes.h"
#include "mirror/mirror_fixture.h"
#include "mirror/staging.h"

namespace mirrorcl::mirror {
namespace {

class SpareMemoryTest : public MirrorTest {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_MOVE();
    MirrorTest::SetUp();
    HostNodes nodes(std::pmr::new_delete_resource());
    nodes.open();
    if (nodes.several()) GTEST_SKIP() << "pages come home to where they belong, and nothing is kept";
  }

  // Pages that the mirror holds for itself.
  std::size_t kept_pages() const {
    std::size_t count = 0;
    for (std::uint64_t at = window::kStaging.start; at < window::kStaging.end(); at += kBlockSize) {
      PageMask present;
      EXPECT_EQ(space_.present_pages({at, kBlockSize}, &present), 0);
      count += present.count();
    }
    return count;
  }
  static Range block(const TestMemory& memory, std::size_t i) {
    return {reinterpret_cast<std::uint64_t>(memory.data()) + i * kBlockSize, kBlockSize};
  }
  static void write(const TestMemory& memory, std::uint64_t first) {
    for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) *memory.word(page) = first + page;
  }
  static void expect_from(const TestMemory& memory, std::uint64_t first) {
    for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) ASSERT_EQ(*memory.word(page), first + page);
  }
  static Range all(const TestMemory& memory) { return {block(memory, 0).start, memory.size()}; }

  AddressSpace space_ = std::move(*AddressSpace::open());
};

TEST_F(SpareMemoryTest, BlocksComeHomeInWhatTheyHaveLeft) {
  TestMemory memory(3 * kBlockPages);
  for (std::uint64_t round = 0; round < 3; ++round) {
    write(memory, 1000 * round);
    ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
    EXPECT_EQ(kept_pages(), 3 * kBlockPages);
    device_.store(memory.word(700), std::uint64_t{1000 * round + 700});
    mirror_->bring_home(all(memory));
    EXPECT_EQ(kept_pages(), 0U);
    EXPECT_EQ(device_.pages_in_use(), 0U);
    expect_from(memory, 1000 * round);
  }
}

TEST_F(SpareMemoryTest, OneMappingComesHomeInTheMemoryOfAnother) {
  TestMemory first(kBlockPages);
  TestMemory second(kBlockPages);
  write(first, 1);
  write(second, 10'000);
  ASSERT_EQ(mirror_->bring_in(device_, all(first), Untouched::kSkip), 0);
  mirror_->bring_home(all(first));
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(mirror_->bring_in(device_, all(first), Untouched::kSkip), 0);
    ASSERT_EQ(mirror_->bring_in(device_, all(second), Untouched::kSkip), 0);
    mirror_->bring_home(all(second));
    mirror_->bring_home(all(first));
    expect_from(first, 1);
    expect_from(second, 10'000);
  }
}

TEST_F(SpareMemoryTest, MappingsThatMeetInABlockComeHome) {
  TestMemory memory(kBlockPages);
  write(memory, 5);
  // Another kind of mapping from page 100 on: MOVE refuses to go beyond.
  ASSERT_EQ(madvise(memory.word(100), kPageSize * 50, MADV_DONTDUMP), 0);
  TestMemory other(kBlockPages);
  write(other, 9000);
  ASSERT_EQ(mirror_->bring_in(device_, all(other), Untouched::kSkip), 0);
  ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
  EXPECT_EQ(device_.pages_in_use(), 2 * kBlockPages);
  mirror_->bring_home(all(memory));
  mirror_->bring_home(all(other));
  EXPECT_EQ(device_.pages_in_use(), 0U);
  expect_from(memory, 5);
  expect_from(other, 9000);
}

TEST_F(SpareMemoryTest, WhatTheApplicationHasUnmappedMeanwhileIsNotMissed) {
  TestMemory memory(2 * kBlockPages);
  write(memory, 3);
  ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
  ASSERT_EQ(madvise(memory.word(20), kPageSize, MADV_DONTNEED), 0);
  mirror_->bring_home(all(memory));
  for (std::size_t page = 0; page < 2 * kBlockPages; ++page) ASSERT_EQ(*memory.word(page), page == 20 ? 0 : 3 + page);
}

TEST_F(SpareMemoryTest, KeepsNoMoreThanItMay) {
  ASSERT_NO_FATAL_FAILURE(start({.spare_bytes = kBlockSize}));
  TestMemory memory(12 * kBlockPages);
  write(memory, 1);
  ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
  EXPECT_LE(kept_pages(), 5 * kBlockPages) << "one, and four that are emptied together";
  EXPECT_GE(kept_pages(), kBlockPages);
  mirror_->bring_home(all(memory));
  expect_from(memory, 1);
}

// What is kept in small pages, and not asked for, does not keep huge pages from being used again.
TEST_F(SpareMemoryTest, KeepsWhatLeftLastRatherThanTheOtherKind) {
  ASSERT_NO_FATAL_FAILURE(start({.spare_bytes = 2 * kBlockSize}));
  const auto kept_huge = [&] {
    std::size_t count = 0;
    for (std::uint64_t at = window::kStaging.start; at < window::kStaging.end(); at += kBlockSize) {
      count += space_.is_huge({at, kBlockSize});
    }
    return count;
  };
  TestMemory small(2 * kBlockPages);
  write(small, 1);
  TestMemory huge(kBlockPages);
  ASSERT_EQ(madvise(huge.data(), huge.size(), MADV_HUGEPAGE), 0);
  write(huge, 7000);
  if (!space_.is_huge(all(huge))) GTEST_SKIP() << "the kernel has made no huge page here, or does not tell";
  ASSERT_EQ(mirror_->bring_in(device_, all(small), Untouched::kSkip), 0);
  ASSERT_EQ(mirror_->bring_in(device_, all(huge), Untouched::kSkip), 0);
  EXPECT_EQ(kept_huge(), 1U);
  mirror_->bring_home(all(huge));
  EXPECT_EQ(kept_huge(), 0U);
  EXPECT_TRUE(space_.is_huge(all(huge)));
  mirror_->bring_home(all(small));
  expect_from(small, 1);
  expect_from(huge, 7000);
}

TEST_F(SpareMemoryTest, KeepsNothingWhereItMayNot) {
  ASSERT_NO_FATAL_FAILURE(start({.spare_bytes = 0}));
  TestMemory memory(8 * kBlockPages);
  write(memory, 1);
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
    EXPECT_LE(kept_pages(), 4 * kBlockPages);
    mirror_->bring_home(all(memory));
    expect_from(memory, 1);
  }
}

TEST_F(SpareMemoryTest, IsGivenBackWhenNothingMoves) {
  TestMemory memory(4 * kBlockPages);
  write(memory, 1);
  ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
  for (int i = 0; i < 1000 && kept_pages() != 0; ++i) usleep(10'000);
  EXPECT_EQ(kept_pages(), 0U);
  mirror_->bring_home(all(memory));
  expect_from(memory, 1);
}

// A child shares none of it with its parent, which goes on moving it.
TEST_F(SpareMemoryTest, ForkedChildrenHaveNothingOfIt) {
  TestMemory memory(2 * kBlockPages);
  write(memory, 1);
  ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
  EXPECT_EQ(kept_pages(), 2 * kBlockPages);
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte;
    close(go[1]);
    unsigned char present;
    const bool absent = mincore(reinterpret_cast<void*>(window::kStaging.start), kPageSize, &present) == -1;
    // Until the parent is done.
    _exit(absent && read(go[0], &byte, 1) == 0 ? 0 : 1);
  }
  ASSERT_GT(child, 0);
  close(go[0]);
  mirror_->bring_home(all(memory));
  expect_from(memory, 1);
  EXPECT_EQ(kept_pages(), 0U);
  close(go[1]);
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// Where the device finds no memory, what is kept is given to it.
TEST_F(SpareMemoryTest, IsGivenBackWhereMemoryIsShort) {
  TestMemory memory(2 * kBlockPages);
  TestMemory other(1);
  write(memory, 1);
  *other.word(0) = 17;
  ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
  EXPECT_EQ(kept_pages(), 2 * kBlockPages);
  device_.fail_copies(1, ENOMEM);
  EXPECT_EQ(device_.load(other.word(0)), 17U);
  EXPECT_EQ(device_.last_error(), device::FaultKind::kNone);
  EXPECT_LE(kept_pages(), 1U) << "that of the last one";
  device_.fail_copies(1, ENOMEM);
  TestMemory third(1);
  *third.word(0) = 18;
  device_.load(third.word(0));
  EXPECT_EQ(device_.last_error(), device::FaultKind::kOutOfMemory) << "nothing is left to give";
  EXPECT_EQ(*third.word(0), 18U);
  expect_from(memory, 1);
}

// What is on its way meanwhile stays.
TEST_F(SpareMemoryTest, ABlockOnItsWaySurvivesThat) {
  TestMemory first(kBlockPages);
  TestMemory second(kBlockPages);
  write(first, 1);
  write(second, 5000);
  ASSERT_EQ(mirror_->bring_in(device_, all(first), Untouched::kSkip), 0);
  device_.fail_copies(1, ENOMEM);
  ASSERT_EQ(mirror_->bring_in(device_, all(second), Untouched::kSkip), 0);
  EXPECT_EQ(device_.pages_in_use(), 2 * kBlockPages);
  EXPECT_EQ(device_.load(second.word(300)), 5300U);
  expect_from(second, 5000);
  expect_from(first, 1);
}

}  // namespace
}  // namespace mirrorcl::mirror
