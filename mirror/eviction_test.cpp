// SPDX-License-Identifier: Apache-2.0
// Working sets larger than device memory, through the fake device.
#include <algorithm>
#include <array>
#include <vector>

#include "hms/live_view.h"
#include "hms/placement.h"
#include "hms/topology.h"
#include "mirror/followed_policies.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

class EvictionTest : public MirrorTest {
 protected:
  static constexpr std::uint64_t kMemory = 8 * kBlockSize;
  static constexpr std::size_t kPages = 4 * kMemory / kPageSize;

  void SetUp() override {
    MirrorTest::SetUp();
    device_.limit_memory(kMemory);
  }
};

TEST_F(EvictionTest, FourTimesTheDeviceMemoryIsReadAndWritten) {
  TestMemory memory(kPages);
  for (std::size_t page = 0; page < kPages; ++page) *memory.word(page) = page;
  for (std::uint64_t round = 1; round <= 2; ++round) {
    for (std::size_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(device_.load(memory.word(page)), page + round - 1) << "page " << page;
      device_.store(memory.word(page), page + round);
      ASSERT_EQ(device_.last_error(), FaultKind::kNone);
      if (page % 512 == 0) {
        ASSERT_LE(device_.memory_in_use(), kMemory);
      }
    }
  }
  EXPECT_GE(statistics().evictions, 2 * (kPages - kMemory / kPageSize) / kBlockPages / 2);
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(*memory.word(page), page + 2);
}

TEST_F(EvictionTest, DecisionsTellForWhomOthersHadToLeave) {
  TestMemory memory(2 * kMemory / kPageSize);
  for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) {
    device_.store(memory.word(page), std::uint64_t{1});
  }
  ASSERT_GT(statistics().evictions, 0U);
  auto view = hms::LiveView::open(getpid());
  ASSERT_TRUE(view) << view.error().message;
  const auto state = view->read();
  ASSERT_TRUE(state) << state.error().message;
  std::size_t evicting = 0;
  std::size_t evicted = 0;
  for (const hms::LiveDecision& decision : state->decisions) {
    const bool evicts = (decision.flags & hms::live::Decision::kEvicts) != 0;
    const bool leaves = decision.reason == static_cast<std::uint8_t>(hms::Reason::kEvicted);
    EXPECT_FALSE(evicts && leaves);
    evicting += evicts ? 1 : 0;
    evicted += leaves ? 1 : 0;
  }
  EXPECT_GT(evicting, 0U);
  EXPECT_GE(evicted, evicting);
}

TEST_F(EvictionTest, ScatteredPagesOfManyBlocksCompleteToo) {
  constexpr std::size_t kBlocks = 64;
  TestMemory memory(kBlocks * kBlockPages);
  for (std::size_t i = 0; i < 20'000; ++i) {
    const std::size_t page = i * 7919 % (kBlocks * kBlockPages);
    device_.store(memory.word(page), i + 1);
    ASSERT_EQ(device_.last_error(), FaultKind::kNone) << i;
  }
  EXPECT_LE(device_.memory_in_use(), kMemory);
  for (std::size_t i = 0; i < 20'000; ++i) ASSERT_EQ(*memory.word(i * 7919 % (kBlocks * kBlockPages)), i + 1);
}

TEST_F(EvictionTest, WhatTheHostHasTooGoesWithoutACopy) {
  TestMemory memory(kPages);
  for (std::size_t page = 0; page < kMemory / kPageSize / 2; ++page) device_.store(memory.word(page), page);
  for (std::size_t page = 0; page < kMemory / kPageSize / 2; ++page) ASSERT_EQ(*memory.word(page), page);
  const std::uint64_t home = statistics().pages_to_host;
  ASSERT_GT(statistics().pages_duplicated, 0U);
  for (std::size_t page = 0; page < kMemory / kPageSize * 3 / 4; ++page) {
    device_.store(memory.word(kPages / 2 + page), page);
    ASSERT_EQ(device_.last_error(), FaultKind::kNone);
  }
  EXPECT_GT(statistics().evictions, 0U);
  EXPECT_EQ(statistics().pages_to_host, home);
  for (std::size_t page = 0; page < kMemory / kPageSize / 2; ++page) ASSERT_EQ(*memory.word(page), page);
}

TEST_F(EvictionTest, CoherentPagesGoHomeToo) {
  constexpr std::size_t kCoherent = 64;
  TestMemory memory(kPages);
  for (std::uint64_t i = 0; i < 5; ++i) {
    for (std::size_t page = 0; page < kCoherent; ++page) device_.store(memory.word(page), i + page);
    for (std::size_t page = 0; page < kCoherent; ++page) ASSERT_EQ(*memory.word(page), i + page);
  }
  ASSERT_GT(statistics().coherent_upgrades, 0U);
  for (std::size_t page = kCoherent; page < kPages; ++page) {
    device_.store(memory.word(page), page);
    ASSERT_EQ(device_.last_error(), FaultKind::kNone);
  }
  for (std::size_t page = 0; page < kCoherent; ++page) ASSERT_EQ(*memory.word(page), 4 + page);
  for (std::size_t page = kCoherent; page < kPages; ++page) ASSERT_EQ(*memory.word(page), page);
}

TEST_F(EvictionTest, WhereNothingCanGoTheAccessFailsAndNothingIsLost) {
  TestMemory memory(4);
  for (std::size_t page = 0; page < 4; ++page) *memory.word(page) = page;
  device_.limit_memory(kPageSize);
  EXPECT_EQ(device_.load(memory.word(0)), 0U);
  EXPECT_EQ(device_.last_error(), FaultKind::kNone);
  device_.load(memory.word(1));
  EXPECT_EQ(device_.last_error(), FaultKind::kOutOfMemory) << "the only other page is of the same block";
  for (std::size_t page = 0; page < 4; ++page) EXPECT_EQ(*memory.word(page), page);
}

// Pages that become coherent take others' place at once, not at the next migration.
TEST_F(EvictionTest, PagesThatBecomeCoherentCountAtOnce) {
  constexpr std::uint64_t kLimit = 2 * kBlockSize;
  device_.limit_memory(kLimit);
  TestMemory full(kLimit / kPageSize);
  TestMemory shared(kBlockPages);
  for (std::size_t page = 0; page < kBlockPages; ++page) *shared.word(page) = page;
  for (std::size_t page = 0; page < full.size() / kPageSize; ++page) {
    device_.store(full.word(page), page);
    ASSERT_EQ(device_.last_error(), FaultKind::kNone);
  }
  for (std::uint64_t i = 1; i < 6; ++i) {
    for (std::size_t page = 0; page < 64; ++page) {
      device_.store(shared.word(page), i + page);
      ASSERT_EQ(device_.last_error(), FaultKind::kNone);
      ASSERT_EQ(*shared.word(page), i + page);
      ASSERT_LE(device_.memory_in_use(), kLimit);
    }
  }
  EXPECT_GT(statistics().coherent_upgrades, 0U);
  for (std::size_t page = 0; page < full.size() / kPageSize; ++page) ASSERT_EQ(*full.word(page), page);
  for (std::size_t page = 64; page < kBlockPages; ++page) ASSERT_EQ(*shared.word(page), page);
}

// Two devices that the topology knows, and a program that binds its memory to the one's, then to the other's.
class EvictionToAnotherTest : public EvictionTest {
 protected:
  void SetUp() override {
    EvictionTest::SetUp();
    ASSERT_TRUE(mirror_->attach(g_second_fake_device.emplace()).has_value());
    hms::Target host;
    host.name = "node0";
    host.node = 0;
    const hms::Uid memory = *machine_.add(host);
    hms::Initiator threads;
    threads.name = "cpus";
    threads.node = 0;
    link({*machine_.add(threads)}, memory);
    devices_ = {add_device(device_, "first"), add_device(*g_second_fake_device, "second")};
    const auto placed = mirror_->place_by(machine_, devices_);
    ASSERT_TRUE(placed.has_value()) << placed.error().message;
    policies_.emplace(*mirror_);
  }
  void TearDown() override {
    policies_.reset();
    mirror_.reset();
  }

  hms::Topology machine_;
  std::array<Mirror::DeviceUids, 2> devices_{};
  std::optional<FollowedPolicies> policies_;

 private:
  void link(std::vector<hms::Uid> initiators, hms::Uid target) {
    hms::Link link;
    link.initiators = std::move(initiators);
    link.targets = {target};
    ASSERT_TRUE(machine_.add(link));
  }
  Mirror::DeviceUids add_device(const FakeDevice& device, const std::string& name) {
    hms::Target memory;
    memory.name = name + "-memory";
    memory.kind = hms::MemoryKind::kDevice;
    memory.device = name;
    hms::Initiator initiator;
    initiator.name = name;
    initiator.kind = hms::InitiatorKind::kDevice;
    initiator.device = name;
    const Mirror::DeviceUids uids{&device, *machine_.add(initiator), *machine_.add(memory)};
    link({uids.initiator}, uids.target);
    return uids;
  }
};

TEST_F(EvictionToAnotherTest, WhatIsBoundToTwoDevicesGoesFromTheFullOneToTheOther) {
  TestMemory memory(2 * kMemory / kPageSize);
  const auto address = reinterpret_cast<std::uint64_t>(memory.data());
  hms::PolicyChange change;
  const std::array targets{devices_[0].target, devices_[1].target};
  change.bind = targets;
  ASSERT_EQ(policies_->table().change({address, address + memory.size()}, change), 0);
  for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) {
    device_.store(memory.word(page), page);
    ASSERT_EQ(device_.last_error(), FaultKind::kNone);
  }
  EXPECT_GT(mirror_->statistics(device_).evictions, 0U);
  EXPECT_GE(mirror_->statistics(*g_second_fake_device).pages_from_devices, kMemory / kPageSize / 2);
  EXPECT_EQ(statistics().pages_to_host, 0U);
  auto view = hms::LiveView::open(getpid());
  ASSERT_TRUE(view) << view.error().message;
  const auto state = view->read();
  ASSERT_TRUE(state) << state.error().message;
  const bool told = std::ranges::any_of(state->decisions, [](const hms::LiveDecision& decision) {
    return decision.reason == static_cast<std::uint8_t>(hms::Reason::kEvicted) &&
           decision.to == hms::live::device_memory(1);
  });
  EXPECT_TRUE(told);
  for (std::size_t page = 0; page < memory.size() / kPageSize; ++page) ASSERT_EQ(*memory.word(page), page);
}

}  // namespace
}  // namespace mirrorcl::mirror
