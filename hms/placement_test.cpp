// SPDX-License-Identifier: Apache-2.0
// Where pages go, as tables: on the proposal's reference machine, on a machine of one node with a device in the same
// memory, and on one whose device is joined coherently.
#include "hms/placement.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>

#include "hms/reference_machine.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

// One node of 20,000 MiB/s and 90 ns, and a device with memory of its own that both sides reach.
struct SmallMachine {
  std::uint64_t device_bandwidth = 20'000;  // MiB/s, for the device
  std::uint64_t cpu_bandwidth = 20'000;     // MiB/s, of the CPUs to the device's memory; 0: they do not reach it
  std::uint64_t far_bandwidth = 20'000;     // MiB/s, of the device to the node
  bool atomic = true;

  Topology build() const {
    Topology machine;
    Target node;
    node.name = "node0";
    node.node = 0;
    node.size = 16 * kGiB;
    node.cpus = IdSet::range(0, 3);
    Uid node_uid = *machine.add(node);
    Target memory;
    memory.name = "device-memory";
    memory.kind = MemoryKind::kDevice;
    memory.device = "device";
    memory.size = 8 * kGiB;
    Uid memory_uid = *machine.add(memory);
    Initiator cpus;
    cpus.name = "cpus";
    cpus.cpus = IdSet::range(0, 3);
    Uid cpu_uid = *machine.add(cpus);
    Initiator device;
    device.name = "device";
    device.kind = InitiatorKind::kDevice;
    device.device = "device";
    Uid device_uid = *machine.add(device);
    link(machine, "cpu-node", cpu_uid, node_uid, 20'000);
    link(machine, "device-memory-link", device_uid, memory_uid, device_bandwidth);
    if (cpu_bandwidth != 0) link(machine, "cpu-memory", cpu_uid, memory_uid, cpu_bandwidth);
    link(machine, "device-node", device_uid, node_uid, far_bandwidth);
    return machine;
  }

 private:
  void link(Topology& machine, const char* name, Uid initiator, Uid target, std::uint64_t bandwidth) const {
    Link link;
    link.name = name;
    link.initiators = {initiator};
    link.targets = {target};
    link.atomic = atomic;
    link.properties.set(Property::kBandwidth, {bandwidth, Source::kConfigured});
    link.properties.set(Property::kLatency, {90, Source::kConfigured});
    ASSERT_TRUE(machine.add(link).has_value());
  }
};

// Asks about a machine by names.
class Asker {
 public:
  Asker(Topology machine, std::vector<std::pair<const char*, bool>> requesters) : machine_(std::move(machine)) {
    std::vector<PlacementRequester> wanted;
    for (auto [name, maps_host] : requesters) wanted.push_back({uid(name), maps_host});
    auto map = PlacementMap::create(machine_, wanted, std::pmr::new_delete_resource());
    EXPECT_TRUE(map.has_value());
    map_ = std::move(*map);
    room_.assign(map_->target_count(), 1'000'000);
    request_.map = map_.get();
    request_.room = room_;
    request_.policy = &policy_;
  }

  Asker& by(const char* requester) {
    request_.requester = map_->requester(uid(requester));
    return *this;
  }
  // Where the page is, and whether the requester can be given a mapping of it there.
  Asker& at(const char* home, bool can_map) {
    request_.home = home == nullptr ? kNoSlot : map_->target(uid(home));
    request_.can_map_home = can_map;
    return *this;
  }
  Asker& untouched() { return at(nullptr, false); }
  Asker& access(Access access) {
    request_.access = access;
    return *this;
  }
  Asker& bind(std::vector<const char*> names) {
    bind_.clear();
    for (const char* name : names) bind_.push_back(uid(name));
    policy_.bind = bind_;
    return *this;
  }
  Asker& prefer(const char* name) {
    policy_.preferred = name == nullptr ? kNoUid : uid(name);
    return *this;
  }
  Asker& accessed_by(std::vector<const char*> names) {
    accessed_by_.clear();
    for (const char* name : names) accessed_by_.push_back(uid(name));
    policy_.accessed_by = accessed_by_;
    return *this;
  }
  Asker& read_mostly(bool yes) {
    policy_.read_mostly = yes;
    return *this;
  }
  Asker& room(const char* target, std::uint64_t pages) {
    room_[map_->target(uid(target))] = pages;
    return *this;
  }
  PlacementRequest& request() { return request_; }
  const PlacementMap& map() const { return *map_; }
  const Policy& policy() const { return policy_; }
  std::span<const std::uint64_t> room() const { return room_; }

  Decision decide() const { return hms::decide(request_); }
  // "move gpu0-hbm: nobody has touched it yet..." without the reason's text, for the tables.
  std::string answer() const { return told(decide()); }
  std::string told(const Decision& decision) const {
    std::string text = name_of(decision.action);
    if (decision.target != kNoSlot) text += " " + machine_.target(map_->target_uid(decision.target))->name;
    if (decision.evict) text += " evict";
    return text;
  }
  Slot slot(const char* target) const { return map_->target(uid(target)); }
  Slot requester(const char* name) const { return map_->requester(uid(name)); }

 private:
  Uid uid(const char* name) const { return machine_.find(name)->uid; }

  Topology machine_;
  PlacementMap::Pointer map_{nullptr, {nullptr}};
  std::vector<std::uint64_t> room_;
  std::vector<Uid> bind_;
  std::vector<Uid> accessed_by_;
  Policy policy_;
  PlacementRequest request_;
};

Asker reference() {
  return {reference_machine(), {{"cx00", true}, {"cx10", true}, {"gpu0", false}, {"gpu1", false}, {"gpu2", false}}};
}

// --- the map

TEST(PlacementMap, OrdersTargetsByBandwidthThenLocality) {
  Asker ask = reference();
  auto best = ask.map().best(ask.requester("gpu0"));
  ASSERT_GE(best.size(), 4U);
  EXPECT_EQ(best[0], ask.slot("gpu0-hbm"));
  EXPECT_EQ(best[1], ask.slot("gpu0-gddr"));
  for (Slot target : best) EXPECT_FALSE(ask.map().is_host(target)) << "this GPU does not map host memory";
  auto cpu = ask.map().best(ask.requester("cx00"));
  EXPECT_EQ(cpu[0], ask.slot("hbm00"));
  EXPECT_EQ(cpu[1], ask.slot("hbm01"));
  EXPECT_EQ(cpu[2], ask.slot("ddr0"));
}

TEST(PlacementMap, LeavesOutPathsThatAreNotCoherent) {
  Asker ask = reference();
  EXPECT_FALSE(ask.map().path(ask.requester("cx00"), ask.slot("gpu0-gddr")).reaches);
  EXPECT_TRUE(ask.map().best_shared_with_host(ask.requester("gpu0")).empty());
  EXPECT_TRUE(ask.map().is_host(ask.map().nearest_host(ask.requester("gpu2"))));
  EXPECT_EQ(ask.map().nearest_host(ask.requester("gpu2")), ask.slot("ddr1")) << "of its own node";
}

TEST(PlacementMap, KnowsUidsOfBothKinds) {
  Asker ask = reference();
  const PlacementMap& map = ask.map();
  for (Slot target = 0; target < map.target_count(); ++target) EXPECT_EQ(map.target(map.target_uid(target)), target);
  EXPECT_EQ(map.requester(map.requester_uid(2)), 2);
  EXPECT_EQ(map.target(map.requester_uid(2)), kNoSlot);
  EXPECT_EQ(map.requester(map.target_uid(0)), kNoSlot);
  EXPECT_EQ(map.target(kNoUid), kNoSlot);
}

TEST(PlacementMap, RefusesRequestersThatAreNone) {
  Topology machine = reference_machine();
  PlacementRequester wrong{machine.find("ddr0")->uid, true};
  auto map = PlacementMap::create(machine, std::span(&wrong, 1), std::pmr::new_delete_resource());
  ASSERT_FALSE(map.has_value());
  EXPECT_EQ(map.error().code, ErrorCode::kInvalidArgument);
}

TEST(PlacementMap, RefusesMoreRequestersThanItHasNumbersFor) {
  Topology machine = SmallMachine{}.build();
  std::vector<PlacementRequester> requesters(65'536, PlacementRequester{machine.initiators().front().uid});
  auto map = PlacementMap::create(machine, requesters, std::pmr::new_delete_resource());
  ASSERT_FALSE(map.has_value());
  EXPECT_EQ(map.error().code, ErrorCode::kNotSupported);
}

// --- the reference machine, without any policy

TEST(Placement, FirstTouchGoesToTheBestMemory) {
  Asker ask = reference();
  EXPECT_EQ(ask.untouched().by("gpu0").answer(), "move gpu0-hbm");
  EXPECT_EQ(ask.decide().reason, Reason::kFirstTouch);
  EXPECT_EQ(ask.by("gpu1").answer(), "move gpu1-hbm");
  EXPECT_EQ(ask.by("cx00").answer(), "move hbm00");
  EXPECT_EQ(ask.by("cx10").answer(), "move hbm10");
}

TEST(Placement, FullMemoryIsPassedOver) {
  Asker ask = reference();
  ask.untouched().by("gpu0").room("gpu0-hbm", 0);
  EXPECT_EQ(ask.answer(), "move gpu0-gddr");
  ask.room("gpu0-gddr", 0);
  EXPECT_EQ(ask.answer(), "move gpu1-hbm") << "of the other GPUs at 400 GB/s, the one that is nearer and quicker";
}

TEST(Placement, WhatADeviceCannotMapMoves) {
  Asker ask = reference();
  EXPECT_EQ(ask.by("gpu0").at("ddr0", false).answer(), "move gpu0-hbm");
  EXPECT_EQ(ask.decide().reason, Reason::kOnlyWay);
  EXPECT_EQ(ask.by("cx00").at("gpu0-hbm", false).answer(), "move hbm00");
}

TEST(Placement, ADevicesPageOfAPeerIsMappedUnlessItIsInUse) {
  Asker ask = reference();
  ask.by("gpu0").at("gpu1-gddr", true);
  ask.request().rules.expected_touches = 1;
  EXPECT_EQ(ask.answer(), "map gpu1-gddr");
  EXPECT_EQ(ask.decide().reason, Reason::kNotWorthMoving);
  ask.request().history.faults = 60;
  EXPECT_EQ(ask.answer(), "move gpu0-hbm");
  EXPECT_EQ(ask.decide().reason, Reason::kWorthMoving);
}

TEST(Placement, BackAndForthWithoutSharedMemoryRests) {
  Asker ask = reference();
  ask.by("gpu0").at("ddr0", false).request().history.returns = 2;
  Decision decision = ask.decide();
  EXPECT_EQ(ask.told(decision), "hold ddr0");
  EXPECT_EQ(decision.reason, Reason::kCannotShare);
  EXPECT_EQ(decision.hold_us, ask.request().rules.hold_us);
  ask.request().history.returns = 1;
  EXPECT_EQ(ask.answer(), "move gpu0-hbm");
}

// --- policies

TEST(Placement, BindingIsStrictAndOrdered) {
  Asker ask = reference();
  ask.by("gpu0").at("ddr0", false).bind({"gpu1-hbm", "gpu0-gddr"});
  EXPECT_EQ(ask.answer(), "move gpu1-hbm");
  EXPECT_EQ(ask.decide().reason, Reason::kBound);
  EXPECT_EQ(ask.room("gpu1-hbm", 0).answer(), "move gpu0-gddr");
  EXPECT_EQ(ask.room("gpu0-gddr", 0).answer(), "move gpu1-hbm evict") << "until exhausted, and no others then";
  EXPECT_EQ(ask.decide().reason, Reason::kBoundFull);
}

TEST(Placement, BindingToWhatTheRequesterCannotReachAllowsOthers) {
  Asker ask = reference();
  EXPECT_EQ(ask.by("gpu0").untouched().bind({"hbm00", "ddr0"}).answer(), "move gpu0-hbm");
  EXPECT_EQ(ask.by("cx00").answer(), "move hbm00");
  EXPECT_EQ(ask.by("cx00").bind({"gpu0-hbm"}).answer(), "move hbm00");
  EXPECT_EQ(ask.by("gpu2").answer(), "move gpu0-hbm");
}

TEST(Placement, BoundMemoryStaysWhereItIsAllowedToBe) {
  Asker ask = reference();
  ask.by("gpu0").at("gpu1-hbm", true).bind({"gpu0-hbm", "gpu1-hbm"});
  EXPECT_EQ(ask.answer(), "map gpu1-hbm");
  EXPECT_EQ(ask.decide().reason, Reason::kBoundHere);
}

TEST(Placement, PreferenceYieldsWhereItCannotBeMet) {
  Asker ask = reference();
  ask.by("gpu0").at("ddr0", false).prefer("gpu0-gddr");
  EXPECT_EQ(ask.answer(), "move gpu0-gddr");
  EXPECT_EQ(ask.decide().reason, Reason::kPreferred);
  EXPECT_EQ(ask.room("gpu0-gddr", 0).answer(), "move gpu0-hbm") << "full";
  EXPECT_EQ(ask.prefer("ddr0").answer(), "move gpu0-hbm") << "out of reach";
  EXPECT_EQ(ask.at("gpu1-hbm", true).prefer("gpu1-hbm").answer(), "map gpu1-hbm");
  EXPECT_EQ(ask.decide().reason, Reason::kPreferredHere);
}

TEST(Placement, ABindingRulesOverAPreference) {
  Asker ask = reference();
  EXPECT_EQ(ask.by("gpu0").untouched().bind({"gpu0-gddr"}).prefer("gpu0-hbm").answer(), "move gpu0-gddr");
}

TEST(Placement, AccessedByKeepsPagesWhereTheyAre) {
  Asker ask = reference();
  ask.by("gpu0").at("gpu1-hbm", true).accessed_by({"gpu2", "gpu0"}).request().history.faults = 60;
  EXPECT_EQ(ask.answer(), "map gpu1-hbm");
  EXPECT_EQ(ask.decide().reason, Reason::kAccessedBy);
  EXPECT_EQ(ask.at("ddr0", false).answer(), "move gpu0-hbm") << "cannot be mapped there";
  EXPECT_EQ(ask.by("gpu1").at("gpu0-hbm", true).answer(), "move gpu1-hbm") << "not in the list";
}

TEST(Placement, ReadersOfReadMostlyMemoryGetCopies) {
  Asker ask = reference();
  ask.by("gpu0").at("ddr0", false).read_mostly(true);
  EXPECT_EQ(ask.answer(), "duplicate gpu0-hbm");
  EXPECT_EQ(ask.decide().reason, Reason::kReadMostly);
  EXPECT_EQ(ask.access(Access::kWrite).answer(), "move gpu0-hbm");
  EXPECT_EQ(ask.access(Access::kRead).untouched().answer(), "move gpu0-hbm") << "nothing to copy";
}

// --- one memory for all

Asker small(const SmallMachine& machine, bool maps_host) {
  return {machine.build(), {{"cpus", true}, {"device", maps_host}}};
}

TEST(Placement, EqualMemoryIsMappedInPlaceWhereThatIsPossible) {
  Asker ask = small({}, true);
  ask.by("device").at("node0", true);
  EXPECT_EQ(ask.answer(), "map node0");
  ask.request().history.faults = 1000;
  EXPECT_EQ(ask.answer(), "map node0") << "however often";
  EXPECT_EQ(ask.decide().reason, Reason::kNotWorthMoving);
  // A device with an MMU of its own that cannot map host memory has to take the page.
  Asker other = small({}, false);
  EXPECT_EQ(other.by("device").at("node0", false).answer(), "move device-memory");
}

TEST(Placement, MuchBetterMemoryIsWorthAMove) {
  Asker ask = small({.device_bandwidth = 200'000, .far_bandwidth = 10'000}, true);
  ask.by("device").at("node0", true);
  EXPECT_EQ(ask.answer(), "map node0") << "for a touch or two it is not";
  ask.request().history.faults = 10;
  EXPECT_EQ(ask.answer(), "move device-memory");
  ask.request().history = {.dense_pages = 512};
  EXPECT_EQ(ask.answer(), "move device-memory") << "a whole block costs less per page";
}

TEST(Placement, AMappingThatCostsMoreThanTheCopyIsNotMade) {
  Asker ask = small({}, false);
  ask.by("cpus").at("device-memory", true).request().map_cost_ns = 52'000;
  EXPECT_EQ(ask.answer(), "move node0");
  ask.request().history.dense_pages = 512;
  EXPECT_EQ(ask.answer(), "map device-memory") << "one mapping for 512 pages";
}

TEST(Placement, BackAndForthPagesAreShared) {
  Asker ask = small({}, false);
  ask.by("device").at("node0", false).request().history.returns = 2;
  EXPECT_EQ(ask.answer(), "share device-memory");
  EXPECT_EQ(ask.decide().reason, Reason::kBackAndForth);
  ask.request().can_share = false;
  EXPECT_EQ(ask.answer(), "hold node0");
  ask.request().can_share = true;
  EXPECT_EQ(ask.room("device-memory", 0).answer(), "hold node0");
  ask.room("device-memory", 100).request().rules.share_after_returns = 0;
  EXPECT_EQ(ask.answer(), "move device-memory") << "sharing is off";
  // From the other side it is there already.
  ask.request().rules.share_after_returns = 2;
  EXPECT_EQ(ask.by("cpus").at("device-memory", true).answer(), "map device-memory");
}

TEST(Placement, MemoryThatTheCpusCannotMapIsNotShared) {
  Asker ask = small({.cpu_bandwidth = 0}, false);
  ask.by("device").at("node0", false).request().history.returns = 5;
  EXPECT_EQ(ask.answer(), "hold node0");
}

TEST(Placement, AtomicsNeedAPathThatHasThem) {
  Asker ask = small({.atomic = false}, true);
  ask.by("device").at("node0", true);
  EXPECT_EQ(ask.access(Access::kWrite).answer(), "map node0");
  EXPECT_EQ(ask.access(Access::kAtomic).answer(), "fail node0");
}

TEST(Placement, WhatCannotMoveIsMappedOrFails) {
  Asker ask = small({}, true);
  ask.by("device").at("node0", true).bind({"device-memory"}).request().can_move = false;
  EXPECT_EQ(ask.answer(), "map node0");
  EXPECT_EQ(ask.decide().reason, Reason::kImmovable);
  ask.request().can_map_home = false;
  EXPECT_EQ(ask.answer(), "fail node0");
}

TEST(Placement, FullMemoryThatIsTheOnlyWayMustBeEmptied) {
  Asker ask = small({}, false);
  EXPECT_EQ(ask.by("device").at("node0", false).room("device-memory", 0).answer(), "move device-memory evict");
  EXPECT_EQ(ask.decide().reason, Reason::kFull);
  EXPECT_EQ(ask.untouched().answer(), "move device-memory evict");
}

// --- how much

TEST(Placement, AsManyPagesAsAreDenseAndFit) {
  Asker ask = small({}, false);
  ask.by("device").at("node0", false);
  EXPECT_EQ(ask.decide().pages, 1U);
  ask.request().history.dense_pages = 16;
  EXPECT_EQ(ask.decide().pages, 16U);
  ask.request().history.dense_pages = 4096;
  EXPECT_EQ(ask.decide().pages, 512U);
  ask.room("device-memory", 100);
  EXPECT_EQ(ask.decide().pages, 64U);
  ask.request().history = {.streak = 5, .stride_pages = -1};
  EXPECT_EQ(ask.decide().pages, 32U);
}

TEST(Placement, PrefetchFollowsAStride) {
  Asker ask = small({}, false);
  ask.by("device").at("node0", false).request().history = {.streak = 2, .stride_pages = 7};
  EXPECT_EQ(decide_prefetch(ask.request(), ask.decide()).pages, 0U) << "two faults are no sequence";
  ask.request().history.streak = 4;
  Prefetch ahead = decide_prefetch(ask.request(), ask.decide());
  EXPECT_EQ(ahead.stride, 7);
  EXPECT_EQ(ahead.pages, 16U);
  ask.room("device-memory", 5);
  EXPECT_EQ(decide_prefetch(ask.request(), ask.decide()).pages, 4U) << "never by eviction";
  ask.room("device-memory", 1000).request().history.returns = 1;
  EXPECT_EQ(decide_prefetch(ask.request(), ask.decide()).pages, 0U) << "it would come back";
  ask.request().history = {.streak = 4, .stride_pages = -1};
  ahead = decide_prefetch(ask.request(), ask.decide());
  EXPECT_EQ(ahead.stride, -16) << "the regions before this one";
}

// --- eviction

TEST(Eviction, OldBlocksGoFirstAndBoundOnesLast) {
  Asker ask = reference();
  Slot hbm = ask.slot("gpu0-hbm");
  auto rank = [&](const EvictionCandidate& candidate) { return eviction_rank(candidate, hbm, ask.map()); };
  EvictionCandidate young{.idle_ms = 10, .pages = 512, .pages_to_write = 0};
  EvictionCandidate old{.idle_ms = 500, .pages = 16, .pages_to_write = 16};
  EXPECT_GT(rank(old), rank(young));
  EvictionCandidate dirty = young;
  dirty.pages_to_write = 512;
  EXPECT_GT(rank(young), rank(dirty)) << "copies elsewhere cost nothing to let go";
  ask.prefer("gpu0-hbm");
  EvictionCandidate preferred = old;
  preferred.policy = &ask.policy();
  EXPECT_GT(rank(old), rank(preferred));
  EXPECT_GT(rank(preferred), 0U);
  ask.bind({"gpu0-hbm"});
  EXPECT_EQ(rank(preferred), 0U);
  EXPECT_GT(eviction_rank(preferred, ask.slot("gpu1-hbm"), ask.map()), 0U) << "not bound there";
}

TEST(Eviction, PagesGoToTheNextBoundTargetThenToNearerDevicesThenToTheNearestHostMemory) {
  Asker ask = reference();
  auto goes = [&](const char* from, const char* device) {
    return ask.told(decide_eviction(ask.slot(from), ask.requester(device), &ask.policy(), ask.map(), ask.room()));
  };
  EXPECT_EQ(goes("gpu0-hbm", "gpu0"), "move gpu0-gddr") << "the device reaches it better than host memory";
  ask.room("gpu0-gddr", 0);
  EXPECT_EQ(goes("gpu0-hbm", "gpu0"), "move gpu1-hbm");
  for (const char* device : {"gpu0-hbm", "gpu1-hbm", "gpu1-gddr", "gpu2-hbm", "gpu2-gddr", "gpu3-hbm", "gpu3-gddr"}) {
    ask.room(device, 0);
  }
  EXPECT_EQ(goes("gpu0-hbm", "gpu0"), "move ddr0");
  EXPECT_EQ(goes("gpu2-hbm", "gpu2"), "move ddr1");
  ask.room("gpu0-gddr", 100);
  ask.bind({"gpu0-hbm", "gpu0-gddr"});
  EXPECT_EQ(goes("gpu0-hbm", "gpu0"), "move gpu0-gddr");
  ask.room("gpu0-gddr", 0);
  EXPECT_EQ(goes("gpu0-hbm", "gpu0"), "move ddr0");
  ask.prefer("hbm01");
  EXPECT_EQ(goes("gpu0-hbm", "gpu0"), "move hbm01");
  EXPECT_EQ(decide_eviction(ask.slot("gpu0-hbm"), ask.requester("gpu0"), nullptr, ask.map(), {}).reason,
            Reason::kEvicted);
}

// --- always

// Whatever is asked, the answer can be carried out.
TEST(Placement, EveryAnswerCanBeCarriedOut) {
  auto seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  Asker ask = reference();
  const PlacementMap& map = ask.map();
  std::vector<std::uint64_t> room(map.target_count());
  std::vector<Uid> bind;
  auto pick = [&](std::uint32_t below) { return static_cast<std::uint32_t>(random() % below); };
  for (int i = 0; i < 200'000; ++i) {
    for (std::uint64_t& pages : room) pages = pick(3) == 0 ? 0 : pick(1000);
    bind.clear();
    for (std::uint32_t n = pick(3) == 0 ? pick(5) : 0; n != 0; --n) bind.push_back(pick(30));
    Uid reader = map.requester_uid(static_cast<Slot>(pick(5)));
    Policy policy{bind, pick(2) == 0 ? kNoUid : pick(30), std::span(&reader, pick(2)), pick(3) == 0};
    PlacementRequest request{
        .requester = static_cast<Slot>(pick(5)),
        .home = pick(4) == 0 ? kNoSlot : static_cast<Slot>(pick(map.target_count())),
        .access = static_cast<Access>(pick(3)),
        .can_map_home = pick(2) == 0,
        .map_cost_ns = pick(100'000),
        .can_move = pick(8) != 0,
        .can_share = pick(8) != 0,
        .history = {pick(4), pick(100), 1U << pick(10), pick(12), static_cast<std::int32_t>(pick(9)) - 4},
        .policy = pick(2) == 0 ? &policy : nullptr,
        .map = &map,
        .room = room,
        .rules = {}};
    Decision decision = decide(request);
    ASSERT_GE(decision.pages, 1U);
    ASSERT_LE(decision.pages, 512U);
    ASSERT_STRNE(text_of(decision.reason), "?");
    if (decision.action == Action::kFail) continue;
    ASSERT_LT(decision.target, map.target_count());
    bool stays = decision.action == Action::kMap || decision.action == Action::kHold;
    ASSERT_EQ(stays, decision.target == request.home) << text_of(decision.reason);
    if (decision.action == Action::kHold) continue;
    const auto& path = map.path(request.requester, decision.target);
    ASSERT_TRUE(path.reaches) << text_of(decision.reason);
    if (request.access == Access::kAtomic) {
      ASSERT_TRUE(path.atomic);
    }
    if (stays) {
      ASSERT_TRUE(request.can_map_home);
      continue;
    }
    ASSERT_TRUE(request.can_move || request.home == kNoSlot);
    if (map.is_host(decision.target)) {
      ASSERT_FALSE(decision.evict);
    } else {
      ASSERT_EQ(decision.evict, room[decision.target] == 0) << text_of(decision.reason);
      if (!decision.evict) {
        ASSERT_LE(decision.pages, room[decision.target]);
      }
    }
    Prefetch ahead = decide_prefetch(request, decision);
    if (ahead.pages != 0) {
      ASSERT_NE(ahead.stride, 0);
      if (!map.is_host(decision.target)) {
        ASSERT_LE(ahead.pages + decision.pages, room[decision.target]);
      }
    }
  }
}

}  // namespace
}  // namespace mirrorcl::hms
