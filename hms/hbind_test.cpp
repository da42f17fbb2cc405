// SPDX-License-Identifier: Apache-2.0
// hbind() against a made-up machine: the proposal's reference machine with its six NUMA nodes and two of its GPUs'
// memories, all of it a table of pages.
#include "hms/hbind.h"

#include <errno.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <initializer_list>
#include <random>
#include <thread>

#include "hms/binder.h"
#include "hms/fake_memory.h"
#include "hms/reference_machine.h"

namespace mirrorcl::hms {
namespace {

// The ABI of the proposal.
static_assert(sizeof(hbind_params) == 40);
static_assert(offsetof(hbind_params, start) == 0);
static_assert(offsetof(hbind_params, end) == 8);
static_assert(offsetof(hbind_params, ntargets) == 16);
static_assert(offsetof(hbind_params, natoms) == 20);
static_assert(offsetof(hbind_params, targets) == 24);
static_assert(offsetof(hbind_params, atoms) == 32);
static_assert(HBIND_CMD_DEFAULT == 0 && HBIND_CMD_BIND == 1 && HBIND_CMD_MIGRATE == 2);
static_assert(HBIND_ATOM(HBIND_CMD_MIGRATE, 1) == 0x0010'0002);
static_assert(HBIND_ATOM_GET_CMD(0xabcd'ef12) == 0xd'ef12 && HBIND_ATOM_GET_DWORDS(0xabcd'ef12) == 0xabc);

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kBase = 0x10'0000'0000;
constexpr Uid kUnknown = 12'345;

AddressRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPage, kBase + (first + count) * kPage};
}

class Hbind : public testing::Test {
 protected:
  Hbind() : machine_(std::make_shared<Topology>(reference_machine())), host_(pages_, *machine_) {
    policies_ = std::move(*PolicyTable::create(std::pmr::new_delete_resource(), {.ranges = 64, .list_words = 1024}));
    binder_.emplace(machine_, *policies_, host_);
    binder_->add_device(gpu0_);
    binder_->add_device(gpu1_);
  }

  Uid uid(const char* name) const { return machine_->find(name)->uid; }

  int call(AddressRange range, std::span<const Uid> targets, std::span<std::uint32_t> atoms) {
    hbind_params params{range.start,
                        range.end,
                        static_cast<std::uint32_t>(targets.size()),
                        static_cast<std::uint32_t>(atoms.size()),
                        reinterpret_cast<std::uint64_t>(targets.data()),
                        reinterpret_cast<std::uint64_t>(atoms.data())};
    return binder_->hbind(&params);
  }
  int call(AddressRange range, std::vector<Uid> targets, std::vector<std::uint32_t> atoms) {
    return call(range, std::span<const Uid>(targets), std::span(atoms));
  }
  std::uint32_t migrate(AddressRange range, std::vector<Uid> targets) {
    std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_MIGRATE, 1), 0xdead};
    EXPECT_EQ(call(range, std::span<const Uid>(targets), std::span(atoms)), 0);
    EXPECT_EQ(atoms[0], HBIND_ATOM(HBIND_CMD_MIGRATE, 1)) << "the command word is the caller's";
    return atoms[1];
  }
  PolicyReader::Found policy(std::uint64_t page) {
    PolicyReader reader(*policies_);
    return reader.find(pages(page, 1).start);
  }

  std::shared_ptr<const Topology> machine_;
  FakePages pages_;
  FakeHostMemory host_;
  FakeDeviceMemory gpu0_{pages_, uid("gpu0-hbm"), uid("ddr0")};
  FakeDeviceMemory gpu1_{pages_, uid("gpu1-hbm"), uid("ddr0")};
  PolicyTable::Pointer policies_{nullptr, {nullptr}};
  std::optional<Binder> binder_;
};

// --- what is refused

TEST_F(Hbind, NullPointersAreEfault) {
  EXPECT_EQ(binder_->hbind(nullptr), -EFAULT);
  std::uint32_t atom = HBIND_ATOM(HBIND_CMD_DEFAULT, 0);
  hbind_params params{kBase, kBase + kPage, 0, 1, 0, 0};
  EXPECT_EQ(binder_->hbind(&params), -EFAULT) << "no atoms";
  params = {kBase, kBase + kPage, 1, 1, 0, reinterpret_cast<std::uint64_t>(&atom)};
  EXPECT_EQ(binder_->hbind(&params), -EFAULT) << "a target that is nowhere";
  params.ntargets = 0;
  EXPECT_EQ(binder_->hbind(&params), 0);
}

TEST_F(Hbind, CountsOutOfBoundsAreEinval) {
  std::vector<std::uint32_t> atoms(HBIND_MAX_ATOMS + 1, HBIND_ATOM(HBIND_CMD_DEFAULT, 0));
  EXPECT_EQ(call(pages(0, 1), std::span<const Uid>(), std::span(atoms)), -EINVAL);
  EXPECT_EQ(call(pages(0, 1), std::span<const Uid>(), std::span(atoms).first(HBIND_MAX_ATOMS)), 0);
  EXPECT_EQ(call(pages(0, 1), std::span<const Uid>(), std::span(atoms).first(0)), -EINVAL);
  std::vector<Uid> targets(HBIND_MAX_TARGETS + 1, uid("ddr0"));
  std::vector<std::uint32_t> bind{HBIND_ATOM(HBIND_CMD_BIND, 0)};
  EXPECT_EQ(call(pages(0, 1), std::span<const Uid>(targets), std::span(bind)), -EINVAL);
  EXPECT_EQ(call(pages(0, 1), std::span<const Uid>(targets).first(HBIND_MAX_TARGETS), std::span(bind)), 0);
}

TEST_F(Hbind, EmptyAndImpossibleRangesAreEinval) {
  std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_DEFAULT, 0)};
  EXPECT_EQ(call({kBase, kBase}, {}, atoms), -EINVAL);
  EXPECT_EQ(call({kBase + kPage, kBase}, {}, atoms), -EINVAL);
  EXPECT_EQ(call({kBase, ~std::uint64_t{0}}, {}, atoms), -EINVAL);
  EXPECT_EQ(call({kBase, (std::uint64_t{1} << 47) + 1}, {}, atoms), -EINVAL);
}

TEST_F(Hbind, UnmappedRangesAreEfault) {
  std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_DEFAULT, 0)};
  EXPECT_EQ(call({kBase - kPage, kBase + kPage}, {}, atoms), -EFAULT);
}

TEST_F(Hbind, UnknownCommandsAreEinval) {
  for (std::uint32_t id : {HBIND_COMMANDS, 1000U, 0xfffffU}) {
    EXPECT_EQ(call(pages(0, 1), {uid("ddr0")}, {HBIND_ATOM(id, 0)}), -EINVAL) << id;
  }
}

TEST_F(Hbind, WrongNumbersOfDwordsAreEinval) {
  struct Case {
    std::uint32_t command;
    std::uint32_t right;  // with one target listed
  };
  for (Case c :
       {Case{HBIND_CMD_DEFAULT, 0}, Case{HBIND_CMD_BIND, 0}, Case{HBIND_CMD_MIGRATE, 1}, Case{HBIND_CMD_PREFETCH, 0},
        Case{HBIND_CMD_PREFERRED, 0}, Case{HBIND_CMD_READ_MOSTLY, 1}, Case{HBIND_CMD_QUERY_RESIDENCY, 3}}) {
    for (std::uint32_t dwords = 0; dwords < 5; ++dwords) {
      std::vector<std::uint32_t> atoms(1 + dwords, 0);
      atoms[0] = HBIND_ATOM(c.command, dwords);
      EXPECT_EQ(call(pages(0, 1), {uid("ddr0")}, atoms), dwords == c.right ? 0 : -EINVAL)
          << "command " << c.command << ", dwords " << dwords;
    }
  }
}

TEST_F(Hbind, AtomsThatReachBeyondTheEndAreEinval) {
  EXPECT_EQ(call(pages(0, 1), {uid("ddr0")}, {HBIND_ATOM(HBIND_CMD_MIGRATE, 1)}), -EINVAL);
  EXPECT_EQ(call(pages(0, 1), {}, {HBIND_ATOM(HBIND_CMD_ACCESSED_BY, 4095), uid("gpu0")}), -EINVAL);
}

TEST_F(Hbind, ReadMostlyIsYesOrNo) {
  EXPECT_EQ(call(pages(0, 1), {}, {HBIND_ATOM(HBIND_CMD_READ_MOSTLY, 1), 2}), -EINVAL);
}

TEST_F(Hbind, NoUsableTargetIsEnodev) {
  for (std::uint32_t command : {HBIND_CMD_BIND, HBIND_CMD_PREFETCH}) {
    EXPECT_EQ(call(pages(0, 1), {}, {HBIND_ATOM(command, 0)}), -ENODEV) << command;
    EXPECT_EQ(call(pages(0, 1), {kUnknown}, {HBIND_ATOM(command, 0)}), -ENODEV) << command;
  }
  EXPECT_EQ(call(pages(0, 1), {kUnknown}, {HBIND_ATOM(HBIND_CMD_MIGRATE, 1), 0}), -ENODEV);
  EXPECT_EQ(call(pages(0, 1), {kUnknown}, {HBIND_ATOM(HBIND_CMD_PREFERRED, 0)}), -ENODEV);
  EXPECT_EQ(call(pages(0, 1), {}, {HBIND_ATOM(HBIND_CMD_ACCESSED_BY, 1), kUnknown}), -ENODEV);
  EXPECT_EQ(call(pages(0, 1), {uid("gpu0")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), -ENODEV) << "an initiator";
  EXPECT_EQ(call(pages(0, 1), {uid("gpu2-hbm")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), -ENODEV) << "nobody drives it";
  host_.forbidden_nodes = {1};
  EXPECT_EQ(call(pages(0, 1), {uid("ddr1")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), -ENODEV) << "not this process's";
}

TEST_F(Hbind, NothingIsExecutedUnlessAllIsValid) {
  pages_.touch(pages(0, 4), uid("ddr0"));
  std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_BIND, 0), HBIND_ATOM(HBIND_CMD_MIGRATE, 1), 77,
                                   HBIND_ATOM(HBIND_COMMANDS, 0)};
  std::vector<Uid> targets{uid("gpu0-hbm")};
  EXPECT_EQ(call(pages(0, 4), std::span<const Uid>(targets), std::span(atoms)), -EINVAL);
  EXPECT_EQ(atoms[2], 77U);
  EXPECT_EQ(policies_->range_count(), 0U);
  EXPECT_EQ(pages_.count_in(uid("ddr0")), 4U);
  EXPECT_TRUE(host_.told.empty());
}

TEST_F(Hbind, NoRoomForAPolicyIsEnomemAndChangesNothing) {
  std::uint64_t accepted = 0;
  while (call(pages(accepted * 2, 1), {uid("hbm00")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}) == 0) ++accepted;
  EXPECT_GT(accepted, 50U);
  EXPECT_EQ(call(pages(accepted * 2, 1), {uid("hbm00")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), -ENOMEM);
  EXPECT_TRUE(policy(accepted * 2).policy.empty());
}

TEST_F(Hbind, WhatTheKernelRefusesChangesNothing) {
  ASSERT_EQ(call(pages(0, 8), {uid("hbm00")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), 0);
  host_.set_policy_errors = {-ENOMEM};
  EXPECT_EQ(call(pages(2, 2), {uid("ddr1")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), -ENOMEM);
  auto found = policy(3);
  EXPECT_EQ(found.range, pages(0, 8));
  EXPECT_EQ(found.policy.bind[0], uid("hbm00"));
  EXPECT_EQ(host_.told.size(), 1U) << "the kernel has changed nothing that would have to be undone";
}

TEST_F(Hbind, WhatTheKernelTakesHalfIsUndone) {
  ASSERT_EQ(call(pages(0, 2), {uid("hbm00")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), 0);
  ASSERT_EQ(call(pages(4, 2), {uid("hbm01")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), 0);
  host_.set_policy_errors = {0, -ENOMEM};
  EXPECT_EQ(call(pages(0, 6), {uid("ddr1")}, {HBIND_ATOM(HBIND_CMD_PREFERRED, 0)}), -ENOMEM);
  EXPECT_EQ(policies_->range_count(), 2U);
  EXPECT_EQ(policy(5).policy.preferred, kNoUid);
  std::vector<FakeHostMemory::Told> last(host_.told.end() - 3, host_.told.end());
  EXPECT_EQ(last, (std::vector<FakeHostMemory::Told>{{pages(0, 2), HostPolicy::Mode::kBind, {2}},
                                                     {pages(2, 2), HostPolicy::Mode::kDefault, {}},
                                                     {pages(4, 2), HostPolicy::Mode::kBind, {3}}}));
}

// --- policies

TEST_F(Hbind, RangesAreRoundedOutwardsToPages) {
  ASSERT_EQ(call({kBase + 5 * kPage + 1, kBase + 7 * kPage + 1}, {uid("hbm00")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), 0);
  EXPECT_EQ(policy(5).range, pages(5, 3));
}

TEST_F(Hbind, BindKeepsTheOrderAndSkipsWhatIsUnknown) {
  std::vector<Uid> targets{kUnknown, uid("gpu0-hbm"), uid("hbm01"), uid("gpu0-hbm"), uid("ddr0")};
  ASSERT_EQ(call(pages(0, 4), targets, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), 0);
  std::vector<Uid> expected{uid("gpu0-hbm"), uid("hbm01"), uid("ddr0")};
  auto found = policy(0);
  EXPECT_TRUE(std::ranges::equal(found.policy.bind, expected));
  ASSERT_EQ(host_.told.size(), 1U);
  EXPECT_EQ(host_.told[0], (FakeHostMemory::Told{pages(0, 4), HostPolicy::Mode::kBind, {3, 0}}));
  EXPECT_EQ(gpu0_.changes, std::vector{pages(0, 4)});
  EXPECT_EQ(gpu1_.changes, std::vector{pages(0, 4)});
}

TEST_F(Hbind, BindReplacesEarlierPolicy) {
  ASSERT_EQ(call(pages(0, 4), {uid("ddr1")},
                 {HBIND_ATOM(HBIND_CMD_PREFERRED, 0), HBIND_ATOM(HBIND_CMD_ACCESSED_BY, 1), uid("gpu0"),
                  HBIND_ATOM(HBIND_CMD_READ_MOSTLY, 1), 1}),
            0);
  auto before = policy(0);
  EXPECT_EQ(before.policy.preferred, uid("ddr1"));
  EXPECT_EQ(before.policy.accessed_by[0], uid("gpu0"));
  EXPECT_TRUE(before.policy.read_mostly);
  ASSERT_EQ(call(pages(0, 4), {uid("gpu1-hbm")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), 0);
  auto after = policy(0);
  EXPECT_EQ(after.policy.preferred, kNoUid);
  EXPECT_TRUE(after.policy.accessed_by.empty());
  EXPECT_FALSE(after.policy.read_mostly);
  EXPECT_EQ(host_.told.back().mode, HostPolicy::Mode::kDefault) << "no node is bound";
}

TEST_F(Hbind, HintsStandBesideABinding) {
  ASSERT_EQ(call(pages(0, 4), {uid("hbm00")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), 0);
  ASSERT_EQ(call(pages(2, 4), {uid("ddr1")}, {HBIND_ATOM(HBIND_CMD_PREFERRED, 0)}), 0);
  EXPECT_EQ(policy(3).policy.bind[0], uid("hbm00"));
  EXPECT_EQ(policy(3).policy.preferred, uid("ddr1"));
  // The kernel stays with the binding where there is one.
  ASSERT_GE(host_.told.size(), 2U);
  EXPECT_EQ(host_.told[host_.told.size() - 2], (FakeHostMemory::Told{pages(2, 2), HostPolicy::Mode::kBind, {2}}));
  EXPECT_EQ(host_.told.back(), (FakeHostMemory::Told{pages(4, 2), HostPolicy::Mode::kPrefer, {1}}));
  std::size_t told = host_.told.size();
  ASSERT_EQ(call(pages(0, 6), {}, {HBIND_ATOM(HBIND_CMD_READ_MOSTLY, 1), 1}), 0);
  EXPECT_EQ(host_.told.size(), told) << "none of the kernel's business";
  ASSERT_EQ(call(pages(0, 6), {}, {HBIND_ATOM(HBIND_CMD_PREFERRED, 0)}), 0);
  EXPECT_EQ(policy(4).policy.preferred, kNoUid);
}

TEST_F(Hbind, DefaultTakesAllBack) {
  ASSERT_EQ(call(pages(0, 10), {uid("hbm00")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), 0);
  ASSERT_EQ(call(pages(4, 2), {}, {HBIND_ATOM(HBIND_CMD_DEFAULT, 0)}), 0);
  EXPECT_EQ(policy(3).range, pages(0, 4));
  EXPECT_TRUE(policy(4).policy.empty());
  EXPECT_EQ(policy(6).range, pages(6, 4));
  EXPECT_EQ(host_.told.back(), (FakeHostMemory::Told{pages(4, 2), HostPolicy::Mode::kDefault, {}}));
}

// --- migration

TEST_F(Hbind, MigrateCountsThePagesThatMoved) {
  pages_.touch(pages(0, 10), uid("ddr0"));
  pages_.touch(pages(10, 2), uid("gpu0-hbm"));
  EXPECT_EQ(migrate(pages(0, 20), {uid("gpu0-hbm")}), 10U) << "two were there, eight have never been touched";
  EXPECT_EQ(pages_.count_in(uid("gpu0-hbm")), 12U);
  EXPECT_EQ(migrate(pages(0, 20), {uid("gpu0-hbm")}), 0U);
  EXPECT_EQ(migrate(pages(0, 6), {uid("gpu1-hbm")}), 6U) << "from device to device";
  EXPECT_EQ(migrate(pages(0, 20), {uid("ddr1")}), 12U) << "back to the host, to the node that was asked for";
  EXPECT_EQ(pages_.count_in(uid("ddr1")), 12U);
  EXPECT_EQ(migrate(pages(0, 20), {uid("hbm10")}), 12U) << "between nodes";
  EXPECT_EQ(policies_->range_count(), 0U);
}

TEST_F(Hbind, MigrateTakesTheNextTargetWhenOneIsFull) {
  pages_.touch(pages(0, 10), uid("ddr0"));
  pages_.capacity[uid("gpu0-hbm")] = 3;
  pages_.capacity[uid("hbm00")] = 5;
  EXPECT_EQ(migrate(pages(0, 10), {uid("gpu0-hbm"), uid("hbm00")}), 8U);
  EXPECT_EQ(pages_.count_in(uid("gpu0-hbm")), 3U);
  EXPECT_EQ(pages_.count_in(uid("hbm00")), 5U);
  EXPECT_EQ(pages_.count_in(uid("ddr0")), 2U);
}

TEST_F(Hbind, MigrateLeavesPinnedPagesAndDoesNotCountThem) {
  pages_.touch(pages(0, 10), uid("ddr0"));
  pages_.pinned = {pages(3, 1).start, pages(7, 1).start};
  EXPECT_EQ(migrate(pages(0, 10), {uid("gpu0-hbm")}), 8U);
  EXPECT_EQ(pages_.place_of(pages(7, 1).start), uid("ddr0"));
}

TEST_F(Hbind, MigrateGoesOnWhereADeviceFails) {
  pages_.touch(pages(0, 10), uid("ddr0"));
  gpu0_.move_in_error = -EIO;
  EXPECT_EQ(migrate(pages(0, 10), {uid("gpu0-hbm")}), 0U);
  EXPECT_EQ(migrate(pages(0, 10), {uid("gpu0-hbm"), uid("gpu1-hbm")}), 10U);
}

TEST_F(Hbind, MigrateWorksAcrossParts) {
  pages_.touch(pages(8000, 1000), uid("ddr0"));
  EXPECT_EQ(migrate(pages(0, 20'000), {uid("gpu0-hbm")}), 1000U);
}

// A block that is cut in two moves page by page.
TEST_F(Hbind, BlocksMoveAsAWholeWhereverTheRangeBegins) {
  constexpr std::uint64_t kBlock = std::uint64_t{2} << 20;
  const AddressRange range = pages(7, 30'000);
  pages_.touch(range, uid("ddr0"));
  EXPECT_EQ(migrate(range, {uid("gpu0-hbm")}), 30'000U);
  EXPECT_EQ(migrate(range, {uid("ddr0")}), 30'000U);
  for (const auto& moves : {gpu0_.moved_in, gpu0_.moved_out}) {
    ASSERT_FALSE(moves.empty());
    EXPECT_EQ(moves.front().start, range.start);
    EXPECT_EQ(moves.back().end, range.end);
    for (std::size_t i = 1; i < moves.size(); ++i) {
      EXPECT_EQ(moves[i].start, moves[i - 1].end);
      EXPECT_EQ(moves[i].start % kBlock, 0U);
    }
  }
}

TEST_F(Hbind, PrefetchGivesADeviceUntouchedPagesToo) {
  pages_.touch(pages(0, 4), uid("ddr0"));
  ASSERT_EQ(call(pages(0, 10), {uid("gpu0-hbm")}, {HBIND_ATOM(HBIND_CMD_PREFETCH, 0)}), 0);
  EXPECT_EQ(pages_.count_in(uid("gpu0-hbm")), 10U);
  ASSERT_EQ(call(pages(0, 20), {uid("ddr0")}, {HBIND_ATOM(HBIND_CMD_PREFETCH, 0)}), 0);
  EXPECT_EQ(pages_.count_in(uid("ddr0")), 10U);
}

TEST_F(Hbind, CommandsRunInOrder) {
  pages_.touch(pages(0, 4), uid("ddr0"));
  std::vector<Uid> targets{uid("gpu0-hbm")};
  std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_QUERY_RESIDENCY, 3),
                                   9,
                                   9,
                                   9,
                                   HBIND_ATOM(HBIND_CMD_BIND, 0),
                                   HBIND_ATOM(HBIND_CMD_MIGRATE, 1),
                                   9,
                                   HBIND_ATOM(HBIND_CMD_QUERY_RESIDENCY, 3),
                                   9,
                                   9,
                                   9};
  ASSERT_EQ(call(pages(0, 6), std::span<const Uid>(targets), std::span(atoms)), 0);
  EXPECT_EQ((std::vector(atoms.begin() + 1, atoms.begin() + 4)), (std::vector<std::uint32_t>{0, 4, 2}));
  EXPECT_EQ(atoms[6], 4U);
  EXPECT_EQ((std::vector(atoms.begin() + 8, atoms.end())), (std::vector<std::uint32_t>{4, 0, 2}));
  EXPECT_EQ(policy(0).policy.bind[0], uid("gpu0-hbm"));
}

TEST_F(Hbind, ResidencyCountsEveryListedTarget) {
  pages_.touch(pages(0, 3), uid("ddr0"));
  pages_.touch(pages(3, 4), uid("gpu1-hbm"));
  pages_.touch(pages(7, 5), uid("hbm11"));
  std::vector<Uid> targets{uid("gpu1-hbm"), kUnknown, uid("ddr0")};
  std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_QUERY_RESIDENCY, 5), 9, 9, 9, 9, 9};
  ASSERT_EQ(call(pages(0, 20), std::span<const Uid>(targets), std::span(atoms)), 0);
  EXPECT_EQ((std::vector(atoms.begin() + 1, atoms.end())), (std::vector<std::uint32_t>{4, 0, 3, 5, 8}));
  std::vector<Uid> places(12);
  ASSERT_EQ(binder_->residency(pages(0, 12), places), 0);
  EXPECT_EQ(places[2], uid("ddr0"));
  EXPECT_EQ(places[3], uid("gpu1-hbm"));
  EXPECT_EQ(places[11], uid("hbm11"));
}

TEST_F(Hbind, ARemovedDeviceIsNoTargetAnyMore) {
  binder_->remove_device(gpu0_);
  EXPECT_EQ(call(pages(0, 1), {uid("gpu0-hbm")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), -ENODEV);
  EXPECT_EQ(call(pages(0, 1), {uid("gpu1-hbm")}, {HBIND_ATOM(HBIND_CMD_BIND, 0)}), 0);
}

// --- many threads

TEST_F(Hbind, ConcurrentCallsLeaveTableAndKernelAgreed) {
  auto seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  pages_.touch(pages(0, 64), uid("ddr0"));
  std::vector<Uid> choice{uid("ddr0"), uid("ddr1"), uid("hbm00"), uid("gpu0-hbm"), uid("gpu1-hbm")};
  std::atomic<bool> stop{false};
  std::atomic<int> errors{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(seed + t);
      for (int i = 0; i < 300; ++i) {
        std::uint64_t first = random() % 16 * 4;
        AddressRange range = pages(first, std::min<std::uint64_t>(64 - first, 4 * (1 + random() % 4)));
        std::vector<Uid> targets{choice[random() % choice.size()]};
        int result = 0;
        switch (random() % 4) {
          case 0:
            result = call(range, targets, {HBIND_ATOM(HBIND_CMD_DEFAULT, 0)});
            break;
          case 1:
            result = call(range, targets, {HBIND_ATOM(HBIND_CMD_MIGRATE, 1), 0});
            break;
          default:
            result = call(range, targets, {HBIND_ATOM(HBIND_CMD_BIND, 0)});
        }
        if (result != 0) ++errors;
      }
    });
  }
  std::thread reader([&] {  // as the mirror's service thread
    std::mt19937 random(seed + 9);
    while (!stop) {
      {
        PolicyReader policies(*policies_);
        auto found = policies.find(pages(random() % 64, 1).start);
        if (!found.policy.bind.empty() && machine_->target(found.policy.bind[0]) == nullptr) ++errors;
      }
      std::this_thread::yield();
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  reader.join();
  EXPECT_EQ(errors, 0);
  EXPECT_EQ(pages_.place.size(), 64U);
  // What the kernel was told last of each page is what the table says.
  for (std::uint64_t page = 0; page < 64; ++page) {
    std::vector<int> told;
    for (const auto& one : host_.told) {
      if (one.range.contains(pages(page, 1).start)) told = one.nodes;
    }
    auto found = policy(page);
    std::vector<int> expected;
    for (Uid target : found.policy.bind) {
      if (machine_->target(target)->node >= 0) expected.push_back(machine_->target(target)->node);
    }
    EXPECT_EQ(told, expected) << "page " << page;
  }
}

}  // namespace
}  // namespace mirrorcl::hms
