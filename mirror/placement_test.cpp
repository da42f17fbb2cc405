// SPDX-License-Identifier: Apache-2.0
#include "mirror/placement.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hms/live_layout.h"
#include "hms/topology.h"
#include "mirror/fault_history.h"

namespace mirrorcl::mirror {
namespace {

using hms::Action;
using hms::Reason;

class PlacementTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(placement_.open(std::pmr::get_default_resource(), {}));
    placement_.attach(1, true);
  }
  // Device 0 has memory that the CPU can map, device 1 private memory.
  hms::Decision ask(unsigned requester, unsigned home, std::uint32_t returns = 0, bool can_share = true) {
    return placement_.ask({.address = 0x1000,
                           .requester = requester,
                           .home = home,
                           .access = hms::Access::kWrite,
                           .history = {.returns = returns},
                           .can_share = can_share});
  }

  Placement placement_;
};

TEST_F(PlacementTest, FaultsMoveToWhoAsks) {
  for (unsigned device : {0U, 1U}) {
    EXPECT_EQ(ask(device, kHostSide).action, Action::kMove);
    EXPECT_EQ(ask(device, kHostSide).reason, Reason::kOnlyWay);
    EXPECT_EQ(ask(kHostSide, device).action, Action::kMove);
  }
}

TEST_F(PlacementTest, PagesThatGoBackAndForthAreShared) {
  for (unsigned device : {0U, 1U}) {
    for (auto [requester, home] : {std::pair{device, kHostSide}, std::pair{kHostSide, device}}) {
      const hms::Decision decision = ask(requester, home, 2);
      EXPECT_TRUE(decision.action == Action::kShare || decision.action == Action::kMap) << device << requester;
      EXPECT_EQ(decision.reason, Reason::kBackAndForth);
      EXPECT_EQ(ask(requester, home, 1).action, Action::kMove);
    }
  }
}

TEST_F(PlacementTest, PagesThatCannotBeSharedRest) {
  for (unsigned device : {0U, 1U}) {
    EXPECT_EQ(ask(device, kHostSide, 2, false).action, Action::kHold);
    EXPECT_EQ(ask(kHostSide, device, 2, false).reason, Reason::kCannotShare);
  }
}

TEST_F(PlacementTest, LookingAtOtherPagesLeavesTheQuestionAlone) {
  auto policies = hms::PolicyTable::create(std::pmr::get_default_resource());
  ASSERT_TRUE(policies);
  const hms::Uid memory = placement_.memory_of(0);
  const hms::Uid bound[] = {memory};
  hms::PolicyChange prefer;
  prefer.preferred = memory;
  ASSERT_EQ((*policies)->change({0x1000, 0x2000}, prefer), 0);
  hms::PolicyChange bind;
  bind.bind = bound;
  ASSERT_EQ((*policies)->change({0x8000, 0x9000}, bind), 0);
  placement_.follow(policies->get());
  EXPECT_EQ(ask(0, kHostSide).reason, Reason::kPreferred);
  const hms::EvictionCandidate candidate{.idle_ms = 100, .pages = 16, .pages_to_write = 16};
  EXPECT_EQ(placement_.eviction_rank(0x8000, 0, candidate), 0U) << "bound there";
  EXPECT_GT(placement_.eviction_rank(0x8000, 1, candidate), 0U);
  EXPECT_GT(placement_.eviction_rank(0x1000, 0, candidate), 0U);
  EXPECT_EQ(placement_.evicted_to(0x8000, 1, {100, 100, 0, 0}), 0U) << "where it is bound";
  EXPECT_EQ(placement_.leaving_policy().bind.size(), 1U);
  EXPECT_EQ(placement_.evicted_to(0x8000, 1, {0, 100, 0, 0}), kHostSide) << "there is no room";
  EXPECT_EQ(placement_.evicted_to(0x8000, 0, {100, 100, 0, 0}), kHostSide);
  EXPECT_EQ(placement_.policy().preferred, memory);
  EXPECT_EQ(placement_.policy_range().start, 0x1000U);
  EXPECT_TRUE(placement_.policy().bind.empty());
}

TEST_F(PlacementTest, BulkReadsLeaveCopies) {
  Placement::Question question{.address = 0, .requester = kHostSide, .home = 0};
  question.copyable_pages = 15;
  EXPECT_EQ(placement_.ask(question).action, Action::kMove);
  question.copyable_pages = 16;
  EXPECT_EQ(placement_.ask(question).action, Action::kDuplicate);
  question.access = hms::Access::kWrite;
  EXPECT_EQ(placement_.ask(question).action, Action::kMove);
}

TEST_F(PlacementTest, RegionsGrowWithTheStream) {
  Placement::Question question{.address = 0, .requester = 0, .home = kHostSide};
  EXPECT_EQ(placement_.ask(question).pages, 1U);
  question.history.streak = 4;
  question.history.stride_pages = 1;
  EXPECT_EQ(placement_.ask(question).pages, 16U);
  question.history.dense_pages = 64;
  EXPECT_EQ(placement_.ask(question).pages, 64U);
}

// Two nodes of DRAM, one of HBM, which is best for all CPUs, and a device.
class NodesTest : public PlacementTest {
 protected:
  void SetUp() override {
    PlacementTest::SetUp();
    const hms::Uid threads = add_initiator("threads", hms::InitiatorKind::kCpu);
    const hms::Uid device = add_initiator("gpu", hms::InitiatorKind::kDevice);
    for (std::int32_t node = 0; node < 3; ++node) {
      hms::Target memory;
      memory.name = "node" + std::to_string(node);
      memory.node = node;
      nodes_.push_back(*machine_.add(memory));
      link(threads, nodes_.back(), node == 2 ? 400'000 : 100'000);
    }
    hms::Target memory;
    memory.name = "gpu-memory";
    memory.kind = hms::MemoryKind::kDevice;
    memory.device = "gpu";
    memory_ = *machine_.add(memory);
    link(device, memory_, 200'000);
    link(threads, memory_, 20'000);
    const hms::PlacementRequester requesters[] = {{threads, true}, {device, false}};
    auto map = hms::PlacementMap::create(machine_, requesters, std::pmr::get_default_resource());
    ASSERT_TRUE(map) << map.error().message;
    map_ = std::move(*map);
    PlacementSource source{.map = map_.get(), .devices = {}};
    source.devices[0] = {device, memory_};
    placement_.place_by(source);
  }
  // Where a page of the device goes that a thread touches on `kernel_node`.
  hms::Decision home_to(int kernel_node) {
    return placement_.ask({.address = 0x1000, .requester = kHostSide, .home = 0, .kernel_node = kernel_node});
  }
  hms::Uid target_of(const hms::Decision& decision) const { return map_->target_uid(decision.target); }
  void wish(const hms::PolicyChange& change) {
    policies_ = std::move(*hms::PolicyTable::create(std::pmr::get_default_resource()));
    ASSERT_EQ(policies_->change({0x1000, 0x2000}, change), 0);
    placement_.follow(policies_.get());
  }

  hms::Topology machine_;
  std::vector<hms::Uid> nodes_;
  hms::Uid memory_ = hms::kNoUid;
  hms::PlacementMap::Pointer map_{nullptr, {nullptr}};
  decltype(hms::PolicyTable::create(nullptr))::value_type policies_;

 private:
  hms::Uid add_initiator(const char* name, hms::InitiatorKind kind) {
    hms::Initiator initiator;
    initiator.name = name;
    initiator.kind = kind;
    if (kind == hms::InitiatorKind::kDevice) initiator.device = name;
    return *machine_.add(initiator);
  }
  void link(hms::Uid initiator, hms::Uid target, double bandwidth) {
    hms::Link link;
    link.initiators = {initiator};
    link.targets = {target};
    link.properties.set(hms::Property::kBandwidth, {hms::mib_per_s(bandwidth), hms::Source::kAssumed});
    ASSERT_TRUE(machine_.add(link));
  }
};

TEST_F(NodesTest, PagesComeHomeToWhereTheKernelAllocates) {
  for (const int node : {0, 1, 2}) {
    EXPECT_EQ(home_to(node).action, Action::kMove);
    EXPECT_EQ(target_of(home_to(node)), nodes_[static_cast<std::size_t>(node)]);
  }
}

TEST_F(NodesTest, BoundPagesComeHomeToTheirNode) {
  const hms::Uid bound[] = {nodes_[1], nodes_[0]};
  hms::PolicyChange change;
  change.bind = bound;
  wish(change);
  EXPECT_EQ(target_of(home_to(0)), nodes_[1]);
  EXPECT_EQ(home_to(0).reason, Reason::kBound);
}

TEST_F(NodesTest, PreferredNodesAreHeeded) {
  hms::PolicyChange change;
  change.preferred = nodes_[2];
  wish(change);
  EXPECT_EQ(target_of(home_to(1)), nodes_[2]);
  EXPECT_EQ(home_to(1).reason, Reason::kPreferred);
}

TEST_F(NodesTest, DevicesTakePagesFromAnyNode) {
  for (const int node : {0, 1, 2, kUnknownNode}) {
    const hms::Decision decision =
        placement_.ask({.address = 0x1000, .requester = 0, .home = kHostSide, .home_node = node});
    EXPECT_EQ(decision.action, Action::kMove);
    EXPECT_EQ(target_of(decision), memory_);
  }
}

TEST_F(NodesTest, NodesHaveNames) {
  EXPECT_EQ(placement_.host_memory(1), nodes_[1]);
  EXPECT_EQ(placement_.host_memory(7), hms::live::kHostMemory);
  EXPECT_EQ(placement_.host_memory(kUnknownNode), hms::live::kHostMemory);
  placement_.place_by({});
  EXPECT_EQ(placement_.host_memory(1), hms::live::kHostMemory) << "a mirror that stands alone knows no nodes";
}

TEST(FaultHistoryTest, NeighboursAreAStream) {
  FaultHistory history;
  EXPECT_EQ(history.note(100).streak, 1U);
  EXPECT_EQ(history.note(101).streak, 2U);
  const auto third = history.note(102);
  EXPECT_EQ(third.streak, 3U);
  EXPECT_EQ(third.stride_pages, 1);
}

TEST(FaultHistoryTest, AStreamGoesOnBehindWhatWasServed) {
  FaultHistory history;
  (void)history.note(100);
  (void)history.note(101);
  history.served(96, 127);
  const auto up = history.note(128);
  EXPECT_EQ(up.streak, 3U);
  EXPECT_EQ(up.stride_pages, 1);
}

TEST(FaultHistoryTest, DownwardsToo) {
  FaultHistory history;
  (void)history.note(100);
  (void)history.note(99);
  EXPECT_EQ(history.note(98).stride_pages, -1);
}

TEST(FaultHistoryTest, ConstantDistances) {
  FaultHistory history;
  for (std::uint64_t i = 0; i < 5; ++i) (void)history.note(1000 + 17 * i);
  auto stream = history.note(1000 + 17 * 5);
  EXPECT_EQ(stream.stride_pages, 17);
  EXPECT_EQ(stream.streak, 6U);
  history.brought_ahead(1000 + 17 * 9);
  stream = history.note(1000 + 17 * 10);
  EXPECT_EQ(stream.stride_pages, 17);
  EXPECT_EQ(stream.streak, 7U);
}

TEST(FaultHistoryTest, SeveralStreamsAtOnce) {
  FaultHistory history;
  FaultHistory::Stream a;
  FaultHistory::Stream b;
  for (std::uint64_t i = 0; i < 4; ++i) {
    a = history.note(10'000 + i);
    b = history.note(90'000 + 3 * i);
  }
  EXPECT_EQ(a.streak, 4U);
  EXPECT_EQ(b.streak, 4U);
  EXPECT_EQ(b.stride_pages, 3);
}

// Faults of a stream that takes 1, 2, 4, ... pages, and whole blocks in the end.
void walk(FaultHistory& history, std::uint64_t page, unsigned faults) {
  for (unsigned i = 0; i < faults; ++i) {
    const auto stream = history.note(page);
    const std::uint64_t pages = std::uint64_t{1} << std::min(stream.streak, 9U);
    history.served(page, page + pages - 1);
    page += pages;
  }
}

TEST(FaultHistoryTest, AfterALongStreamTheNextIsTakenForOne) {
  FaultHistory history;
  walk(history, 1 << 20, FaultHistory::kLong);
  const auto next = history.note(2 << 20);
  EXPECT_EQ(next.streak, FaultHistory::kLong);
  EXPECT_EQ(next.stride_pages, 1);
  EXPECT_EQ(history.note(3 << 20).streak, 1U) << "one guess at a time";
}

TEST(FaultHistoryTest, AfterAShortStreamNothingIsGuessed) {
  FaultHistory history;
  walk(history, 1 << 20, FaultHistory::kLong - 1);
  EXPECT_EQ(history.note(2 << 20).streak, 1U);
}

TEST(FaultHistoryTest, AGuessThatProvesRightAllowsTheNext) {
  FaultHistory history;
  walk(history, 1 << 20, FaultHistory::kLong);
  for (std::uint64_t start = 2; start < 50; ++start) {
    EXPECT_EQ(history.note(start << 20).streak, FaultHistory::kLong);
    history.served(start << 20, (start << 20) + 511);
    EXPECT_EQ(history.note((start << 20) + 512).streak, FaultHistory::kLong + 1);
  }
}

TEST(FaultHistoryTest, AGuessThatProvesWrongCostsThat) {
  FaultHistory history;
  walk(history, 1 << 20, FaultHistory::kLong);
  unsigned guessed = 0;
  for (std::uint64_t start = 2; start < 1000; ++start) {
    if (history.note(start << 20).streak >= FaultHistory::kLong) ++guessed;
    history.served(start << 20, (start << 20) + 511);
  }
  EXPECT_EQ(guessed, 1U);
}

TEST(FaultHistoryTest, ScatteredFaultsAreNone) {
  FaultHistory history;
  std::uint64_t page = 1;
  for (int i = 0; i < 100; ++i) {
    page = page * 6364136223846793005U + 1442695040888963407U;
    EXPECT_EQ(history.note(page >> 30).streak, 1U);
  }
}

}  // namespace
}  // namespace mirrorcl::mirror
