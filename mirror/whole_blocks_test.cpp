// SPDX-License-Identifier: Apache-2.0
// Blocks that go to a device as a whole, where it has a large page for them.
#include <cstdint>

#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

class WholeBlocksTest : public MirrorTest {
 protected:
  static Range all(const TestMemory& memory) { return {reinterpret_cast<std::uint64_t>(memory.data()), memory.size()}; }
  // Page i begins with i + 1, and goes to the device.
  void bring_in(const TestMemory& memory) {
    for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) *memory.word(page) = page + 1;
    ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kSkip), 0);
  }
  void expect_contents(const TestMemory& memory) {
    for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) {
      ASSERT_EQ(device_.load(memory.word(page)), page + 1) << page;
    }
    for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) {
      ASSERT_EQ(*memory.word(page), page + 1) << page;
    }
  }
};

TEST_F(WholeBlocksTest, GoAtOnce) {
  TestMemory memory(2 * kBlockPages);
  device_.offer_blocks(10);
  bring_in(memory);
  EXPECT_EQ(device_.blocks_mapped(), 2U);
  EXPECT_EQ(statistics().pages_to_device, 2 * kBlockPages);
  const std::uint64_t faults = device_.faults();
  for (std::size_t page = 0; page < 2 * kBlockPages; ++page) device_.store(memory.word(page), std::uint64_t{page + 2});
  EXPECT_EQ(device_.faults(), faults);
  for (std::size_t page = 0; page < 2 * kBlockPages; ++page) ASSERT_EQ(*memory.word(page), page + 2);
  mirror_->bring_home(all(memory));
  EXPECT_EQ(device_.pages_in_use(), 0U);
}

TEST_F(WholeBlocksTest, GoPageByPageWhereTheDeviceHasNoneAtHand) {
  TestMemory memory(2 * kBlockPages);
  device_.offer_blocks(1);
  bring_in(memory);
  EXPECT_EQ(device_.blocks_mapped(), 1U);
  expect_contents(memory);
}

TEST_F(WholeBlocksTest, GoPageByPageWhereOneCannotBeMapped) {
  TestMemory memory(2 * kBlockPages);
  device_.offer_blocks(2, 2);
  bring_in(memory);
  EXPECT_EQ(device_.blocks_mapped(), 0U);
  EXPECT_EQ(statistics().pages_to_device, 2 * kBlockPages);
  expect_contents(memory);
}

TEST_F(WholeBlocksTest, GoOnlyIfAllOfThemAreThere) {
  TestMemory memory(kBlockPages);
  device_.offer_blocks(10);
  for (std::size_t page = 1; page < kBlockPages; ++page) *memory.word(page) = page + 1;
  ASSERT_EQ(mirror_->bring_in(device_, all(memory), Untouched::kAllocate), 0);
  EXPECT_EQ(device_.blocks_mapped(), 0U);
  EXPECT_EQ(device_.load(memory.word(0)), 0U);
  EXPECT_EQ(device_.load(memory.word(1)), 2U);
}

// The device drops all of a large page when one of its pages is taken, and gets the others back in groups.
TEST_F(WholeBlocksTest, AreMappedAgainInGroupsWhenAPageHasGoneHome) {
  TestMemory memory(kBlockPages);
  device_.offer_blocks(10);
  bring_in(memory);
  EXPECT_EQ(*memory.word(40), 41U);
  const std::uint64_t faults = device_.faults();
  for (std::size_t page = 64; page < 128; ++page) ASSERT_EQ(device_.load(memory.word(page)), page + 1);
  EXPECT_EQ(device_.faults() - faults, 4U);
  expect_contents(memory);
}

TEST_F(WholeBlocksTest, AreMappedAgainAsTheApplicationMayUseThem) {
  TestMemory memory(kBlockPages);
  device_.offer_blocks(10);
  bring_in(memory);
  ASSERT_EQ(mprotect(memory.word(70), kPageSize, PROT_READ), 0);
  mirror_->drain_events();
  for (std::size_t page = 64; page < 80; ++page) {
    std::uint64_t value = page + 1;
    ASSERT_EQ(device_.load(memory.word(page)), value) << page;
    EXPECT_EQ(device_.write(memory.word(page), &value, sizeof value),
              page == 70 ? device::FaultKind::kReadOnly : device::FaultKind::kNone)
        << page;
  }
  expect_contents(memory);
}

}  // namespace
}  // namespace mirrorcl::mirror
