// SPDX-License-Identifier: Apache-2.0
// Policies end with the memory that they are about.
#include "mirror/policy_watch.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>

#include "mirror/followed_policies.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

class PolicyWatchTest : public MirrorTest {
 protected:
  void SetUp() override {
    MirrorTest::SetUp();
    policies_.emplace(*mirror_);
  }

  void set_policy(const void* start, std::size_t pages) {
    policies_->set({reinterpret_cast<std::uint64_t>(start), pages * kPageSize}, FollowedPolicies::read_mostly());
  }
  bool has_policy(const void* at) {
    mirror_->drain_events();
    bool found = false;
    const auto address = reinterpret_cast<std::uint64_t>(at);
    policies_->table().for_each({address, address + kPageSize},
                                [&](hms::AddressRange, const hms::Policy&) { found = true; });
    return found;
  }

  std::optional<FollowedPolicies> policies_;
  TestMemory memory_{2 * kBlockPages};
};

TEST_F(PolicyWatchTest, UnmappingEndsThePolicy) {
  set_policy(memory_.data(), 8);
  EXPECT_TRUE(has_policy(memory_.data()));
  ASSERT_EQ(munmap(memory_.data() + 2 * kPageSize, 2 * kPageSize), 0);
  EXPECT_TRUE(has_policy(memory_.data() + kPageSize));
  EXPECT_FALSE(has_policy(memory_.data() + 2 * kPageSize));
  EXPECT_FALSE(has_policy(memory_.data() + 3 * kPageSize));
  EXPECT_TRUE(has_policy(memory_.data() + 4 * kPageSize)) << "of the rest it stays";
}

TEST_F(PolicyWatchTest, MappingOverEndsThePolicy) {
  set_policy(memory_.data(), 4);
  ASSERT_NE(mmap(memory_.data(), kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            MAP_FAILED);
  EXPECT_FALSE(has_policy(memory_.data()));
  EXPECT_TRUE(has_policy(memory_.data() + kPageSize));
}

TEST_F(PolicyWatchTest, MovingAwayEndsThePolicy) {
  set_policy(memory_.data(), 4);
  void* moved =
      mremap(memory_.data(), 4 * kPageSize, 4 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, memory_.data() + kBlockSize);
  ASSERT_EQ(moved, memory_.data() + kBlockSize);
  EXPECT_FALSE(has_policy(memory_.data()));
  EXPECT_FALSE(has_policy(moved)) << "a policy is of addresses";
}

TEST_F(PolicyWatchTest, DiscardedAndProtectedMemoryKeepsIt) {
  set_policy(memory_.data(), 4);
  *memory_.word(0) = 1;
  ASSERT_EQ(madvise(memory_.data(), 4 * kPageSize, MADV_DONTNEED), 0);
  ASSERT_EQ(mprotect(memory_.data(), 4 * kPageSize, PROT_READ), 0);
  EXPECT_TRUE(has_policy(memory_.data()));
}

TEST_F(PolicyWatchTest, TheMirrorsOwnMovesAreNoUnmapping) {
  set_policy(memory_.data(), kBlockPages);
  for (int i = 0; i < 10; ++i) exchange(memory_.word(0), 10);  // becomes coherent: its mapping is replaced
  EXPECT_EQ(statistics().events_unmap, 0U);
  EXPECT_TRUE(has_policy(memory_.data()));
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory_.data()), kBlockSize});
  EXPECT_TRUE(has_policy(memory_.data()));
  // Watched again, now that devices have nothing of it any more.
  ASSERT_EQ(munmap(memory_.data(), kPageSize), 0);
  EXPECT_FALSE(has_policy(memory_.data()));
}

TEST_F(PolicyWatchTest, AFirstTouchBesideTheDeviceKeepsTheWatch) {
  set_policy(memory_.data(), kBlockPages);
  (void)device_.load(memory_.word(0));
  *memory_.word(0) = 1;    // comes home; devices have nothing of the block
  *memory_.word(300) = 1;  // a first touch, at which the mirror lets go of the block
  ASSERT_EQ(munmap(memory_.word(300), kPageSize), 0);
  EXPECT_FALSE(has_policy(memory_.word(300)));
  EXPECT_TRUE(has_policy(memory_.word(299)));
}

// Nothing is served by the mirror there, so nothing is slower.
TEST_F(PolicyWatchTest, WatchedMemoryTakesNoFaults) {
  set_policy(memory_.data(), kBlockPages);
  const std::uint64_t before = statistics().cpu_faults;
  for (std::size_t page = 0; page < kBlockPages; ++page) *memory_.word(page) = page;
  EXPECT_EQ(statistics().cpu_faults, before);
}

TEST_F(PolicyWatchTest, PoliciesFromBeforeAreWatchedToo) {
  mirror_->follow_policies(nullptr);
  const auto address = reinterpret_cast<std::uint64_t>(memory_.data());
  ASSERT_EQ(policies_->table().change({address, address + kPageSize}, FollowedPolicies::read_mostly()), 0);
  mirror_->follow_policies(&policies_->table());
  ASSERT_EQ(munmap(memory_.data(), kPageSize), 0);
  EXPECT_FALSE(has_policy(memory_.data()));
}

class PolicyOfAFile : public PolicyWatchTest {
 protected:
  static constexpr std::size_t kPages = 8;
  void SetUp() override {
    PolicyWatchTest::SetUp();
    for (UniqueFd& file : files_) {
      file.reset(memfd_create("policy-of-a-file", MFD_CLOEXEC));
      ASSERT_EQ(ftruncate(file.get(), 2 * kPages * kPageSize), 0);
    }
  }
  // Over the memory of the test.
  void show(int fd, int flags, std::size_t offset = 0) {
    ASSERT_EQ(mmap(memory_.data(), kPages * kPageSize, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd,
                   static_cast<off_t>(offset)),
              memory_.data());
  }
  std::array<UniqueFd, 2> files_;
};

TEST_F(PolicyOfAFile, EndsWithItsMapping) {
  for (const int flags : {MAP_SHARED, MAP_PRIVATE}) {
    show(files_[0].get(), flags);
    set_policy(memory_.data(), kPages);
    EXPECT_TRUE(has_policy(memory_.data()));
    ASSERT_EQ(munmap(memory_.data(), 2 * kPageSize), 0);
    EXPECT_FALSE(has_policy(memory_.data()));
    EXPECT_TRUE(has_policy(memory_.data() + 2 * kPageSize)) << "of the rest it stays";
    show(-1, MAP_PRIVATE | MAP_ANONYMOUS);
    EXPECT_FALSE(has_policy(memory_.data() + 2 * kPageSize));
  }
}

TEST_F(PolicyOfAFile, EndsWhenTheAddressesShowAnother) {
  show(files_[0].get(), MAP_SHARED);
  set_policy(memory_.data(), kPages);
  show(files_[0].get(), MAP_SHARED);
  EXPECT_TRUE(has_policy(memory_.data())) << "the same part of the same file";
  show(files_[1].get(), MAP_SHARED);
  EXPECT_FALSE(has_policy(memory_.data())) << "another file";
  set_policy(memory_.data(), kPages);
  show(files_[1].get(), MAP_SHARED, kPageSize);
  EXPECT_FALSE(has_policy(memory_.data())) << "another part of it";
  set_policy(memory_.data(), kPages);
  show(files_[1].get(), MAP_PRIVATE, kPageSize);
  EXPECT_FALSE(has_policy(memory_.data())) << "a mapping of another kind";
}

// Before the mirror hears of that, it leaves off watching what has come there.
TEST_F(PolicyOfAFile, EndsWhenMirroredMemoryIsMovedThere) {
  TestMemory moved(kPages);
  for (std::size_t page = 0; page < kPages; ++page) device_.store<std::uint64_t>(moved.word(page), page);
  show(files_[0].get(), MAP_SHARED);
  set_policy(memory_.data(), kPages);
  ASSERT_EQ(mremap(moved.data(), moved.size(), moved.size(), MREMAP_MAYMOVE | MREMAP_FIXED, memory_.data()),
            memory_.data());
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory_.data()), kBlockSize});
  EXPECT_FALSE(has_policy(memory_.data()));
  EXPECT_EQ(*memory_.word(3), 3U);
}

TEST_F(PolicyOfAFile, StaysWhenTheProtectionChanges) {
  show(files_[0].get(), MAP_SHARED);
  set_policy(memory_.data(), kPages);
  for (const int protection : {PROT_READ, PROT_READ | PROT_WRITE}) {
    ASSERT_EQ(mprotect(memory_.data(), 2 * kPageSize, protection), 0);
    EXPECT_TRUE(has_policy(memory_.data()));
    EXPECT_TRUE(has_policy(memory_.data() + 2 * kPageSize));
  }
  ASSERT_EQ(munmap(memory_.data(), kPages * kPageSize), 0);
  EXPECT_FALSE(has_policy(memory_.data())) << "watched all the same";
}

// The mirror replaces such memory by anonymous memory when a device first uses it.
TEST_F(PolicyOfAFile, StaysWhenPrivateMemoryOfItIsMirrored) {
  show(files_[0].get(), MAP_PRIVATE);
  set_policy(memory_.data(), kPages);
  *memory_.word(1) = 5;
  device_.store<std::uint64_t>(memory_.word(0), 1);
  EXPECT_EQ(statistics().pages_made_anonymous, kPages);
  EXPECT_TRUE(has_policy(memory_.data()));
  EXPECT_EQ(*memory_.word(0), 1U);
  EXPECT_TRUE(has_policy(memory_.data()));
  ASSERT_EQ(munmap(memory_.data(), kPages * kPageSize), 0);
  EXPECT_FALSE(has_policy(memory_.data()));
}

TEST_F(PolicyWatchTest, CoherentMemoryKeepsThePolicyThatItGetsThen) {
  for (int i = 0; i < 10; ++i) exchange(memory_.word(0), 10);
  EXPECT_GT(statistics().coherent_upgrades, 0U);
  set_policy(memory_.data(), 4);
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory_.data()), kBlockSize});
  EXPECT_TRUE(has_policy(memory_.data()));
  ASSERT_EQ(munmap(memory_.data(), kPageSize), 0);
  EXPECT_FALSE(has_policy(memory_.data()));
}

// The new policy must not go with the old memory.
TEST_F(PolicyWatchTest, ANewPolicyOfAReusedAddressStays) {
  for (int round = 0; round < 200; ++round) {
    set_policy(memory_.data(), 1);
    ASSERT_EQ(munmap(memory_.data(), kPageSize), 0);
    ASSERT_EQ(mmap(memory_.data(), kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
              memory_.data());
    set_policy(memory_.data(), 1);
    ASSERT_TRUE(has_policy(memory_.data())) << round;
  }
}

TEST_F(PolicyWatchTest, MemoryOfPinnedThreadsComesHomeAndStays) {
  *memory_.word(0) = 1;
  device_.store<std::uint64_t>(memory_.word(0), 2);
  EXPECT_EQ(device_.pages_in_use(), 1U);
  const auto address = reinterpret_cast<std::uint64_t>(memory_.data());
  mirror_->never_migrate({address, kBlockSize});
  EXPECT_EQ(device_.pages_in_use(), 0U);
  EXPECT_EQ(*memory_.word(0), 2U);
  EXPECT_EQ(device_.load(memory_.word(0)), 2U) << "devices still read it";
  std::uint64_t value = 3;
  EXPECT_EQ(device_.write(memory_.word(0), &value, sizeof value), device::FaultKind::kUnmappable);
  *memory_.word(kBlockPages) = 1;
  device_.store<std::uint64_t>(memory_.word(kBlockPages), 4);
  EXPECT_EQ(device_.last_error(), device::FaultKind::kNone) << "beside it nothing has changed";
}

}  // namespace
}  // namespace mirrorcl::mirror
