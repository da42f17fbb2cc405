// SPDX-License-Identifier: Apache-2.0
// The model on the reference machine of the 2018 proposal (see reference_machine.h; all figures there).
#include "hms/topology.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "hms/query.h"
#include "hms/reference_machine.h"
#include "hms/test_machines.h"

namespace mirrorcl::hms {
namespace {

Uid uid_of(const Topology& topology, std::string_view name) {
  const Object* object = topology.find(name);
  EXPECT_NE(object, nullptr) << name;
  return object == nullptr ? kNoUid : object->uid;
}

std::vector<std::string> names(const Topology& topology, const std::vector<Candidate>& candidates) {
  std::vector<std::string> result;
  for (const Candidate& candidate : candidates) result.push_back(topology.target(candidate.target)->name);
  return result;
}

std::vector<std::string> hop_names(const Topology& topology, const Path& path) {
  std::vector<std::string> result;
  for (const Uid hop : path.hops) result.push_back(topology.object(hop)->name);
  return result;
}

using Names = std::vector<std::string>;

TEST(IdSet, ReadsAndWritesTheKernelsNotation) {
  EXPECT_EQ(IdSet::parse("0-3,8\n")->to_string(), "0-3,8");
  EXPECT_EQ(IdSet::parse("")->to_string(), "");
  EXPECT_EQ(IdSet::parse("130,1,0")->to_string(), "0-1,130");
  EXPECT_EQ(IdSet::parse("63-65")->count(), 3u);
  for (const char* wrong : {"a", "1-", "-1", "3-1", "1,,2", "1,", "99999999", "0-99999999", "1 2"}) {
    EXPECT_FALSE(IdSet::parse(wrong)) << wrong;
  }
}

TEST(IdSet, ComparesAsSets) {
  const IdSet a = *IdSet::parse("1-4,100");
  EXPECT_TRUE(a.includes(*IdSet::parse("2,100")));
  EXPECT_FALSE(a.includes(*IdSet::parse("2,101")));
  EXPECT_TRUE(a.intersects(*IdSet::parse("100-200")));
  EXPECT_FALSE(a.intersects(*IdSet::parse("5-99,101")));
  EXPECT_EQ(a.common(*IdSet::parse("0-2,100")), 3u);
  EXPECT_EQ(a.first(), 1u);
}

// A complex's own HBM 200, the other complex's over the 100 GB/s between them, DDR 90, GDDR of the node's GPUs through
// PCIe 60, and everything of the other node through the interconnect at 50. GPU HBM cannot be reached.
TEST(ReferenceMachine, BestBandwidthForAComplex) {
  const Topology machine = reference_machine();
  const auto best = best_targets(machine, Query{.initiators = {uid_of(machine, "cx00")}});
  ASSERT_TRUE(best);
  const auto order = names(machine, *best);
  ASSERT_EQ(order.size(), 10u);
  EXPECT_EQ(Names(order.begin(), order.begin() + 5), (Names{"hbm00", "hbm01", "ddr0", "gpu0-gddr", "gpu1-gddr"}));
  EXPECT_EQ((*best)[0].bandwidth->number, mib_per_s(200));
  EXPECT_EQ((*best)[1].bandwidth->number, mib_per_s(100));
  EXPECT_EQ((*best)[2].bandwidth->number, mib_per_s(90));
  EXPECT_EQ((*best)[3].bandwidth->number, mib_per_s(60));
  for (std::size_t i = 5; i < 10; ++i) EXPECT_EQ((*best)[i].bandwidth->number, mib_per_s(50)) << order[i];
  EXPECT_EQ((*best)[0].bandwidth->source, Source::kConfigured);
  EXPECT_FALSE((*best)[3].coherent);
  EXPECT_EQ((*best)[0].locality, Locality::kLocal);
  EXPECT_EQ((*best)[1].locality, Locality::kPackage);
  EXPECT_EQ((*best)[9].locality, Locality::kRemote);
}

TEST(ReferenceMachine, BestBandwidthForAGpu) {
  const Topology machine = reference_machine();
  const auto best = best_targets(machine, Query{.initiators = {uid_of(machine, "gpu2")}});
  ASSERT_TRUE(best);
  const auto order = names(machine, *best);
  // Own HBM 1000, own GDDR 500, six memories of its peers 400, DDR of its node 60 and of the other one 50.
  ASSERT_EQ(order.size(), 10u);
  EXPECT_EQ(order[0], "gpu2-hbm");
  EXPECT_EQ(order[1], "gpu2-gddr");
  for (std::size_t i = 2; i < 8; ++i) EXPECT_EQ((*best)[i].bandwidth->number, mib_per_s(400)) << order[i];
  EXPECT_EQ(order[2], "gpu3-hbm");  // in the same package
  EXPECT_EQ(order[8], "ddr1");
  EXPECT_EQ(order[9], "ddr0");
  EXPECT_EQ((*best)[9].bandwidth->number, mib_per_s(50));
}

// Latencies of the hops: own HBM 120; DDR 90; the other complex's HBM 120 + 40 + 120.
TEST(ReferenceMachine, BestLatencyIsTheLeastSum) {
  const Topology machine = reference_machine();
  const auto best = best_targets(machine, Query{.initiators = {uid_of(machine, "cx11")}, .rank = Rank::kLatency});
  ASSERT_TRUE(best);
  EXPECT_EQ(names(machine, *best)[0], "ddr1");
  EXPECT_EQ(names(machine, *best)[1], "hbm11");
  EXPECT_EQ(names(machine, *best)[2], "ddr0");
  EXPECT_EQ((*best)[2].latency->number, 90u + 60u + 90u);
  EXPECT_EQ(names(machine, *best)[3], "hbm10");
  EXPECT_EQ((*best)[3].latency->number, 120u + 40u + 120u);
}

TEST(ReferenceMachine, ASetOfInitiatorsGetsTheWorstOfTheirFigures) {
  const Topology machine = reference_machine();
  const auto best = best_targets(machine, Query{.initiators = {uid_of(machine, "cx00"), uid_of(machine, "gpu0")}});
  ASSERT_TRUE(best);
  // What both reach: GDDR of all GPUs and DDR. ddr0: min(90, 60), latency max(90, 500 + 40 + 90); gpu0-gddr: min(60,
  // 500), latency max(500 + 10 + 150, 150). Each is local to one of them, so the latency decides.
  const auto order = names(machine, *best);
  ASSERT_EQ(order.size(), 6u);
  EXPECT_EQ(order[0], "ddr0");
  EXPECT_EQ((*best)[0].bandwidth->number, mib_per_s(60));
  EXPECT_EQ((*best)[0].latency->number, 630u);
  EXPECT_EQ(order[1], "gpu0-gddr");
  EXPECT_EQ((*best)[1].bandwidth->number, mib_per_s(60));
  EXPECT_EQ((*best)[1].latency->number, 660u);
  EXPECT_EQ(order[2], "gpu1-gddr");
}

TEST(ReferenceMachine, CapacityAndFreeSpace) {
  Topology machine = reference_machine();
  const Uid complex = uid_of(machine, "cx00");
  auto best = best_targets(machine, Query{.initiators = {complex}, .rank = Rank::kCapacity, .limit = 2});
  ASSERT_TRUE(best);
  EXPECT_EQ(names(machine, *best), (Names{"ddr0", "ddr1"}));  // equal sizes: the nearer one first
  ASSERT_TRUE(machine.set_free(uid_of(machine, "ddr0"), 1000));
  best = best_targets(machine, Query{.initiators = {complex}, .rank = Rank::kFreeSpace, .limit = 1});
  ASSERT_TRUE(best);
  EXPECT_EQ(names(machine, *best), Names{"ddr1"});
  best = best_targets(machine, Query{.initiators = {complex}, .rank = Rank::kLatency, .min_free = 1001, .limit = 1});
  ASSERT_TRUE(best);
  EXPECT_EQ(names(machine, *best), Names{"hbm00"});
}

TEST(ReferenceMachine, CoherenceAndOfflineMemoryAreFilters) {
  Topology machine = reference_machine();
  const Uid complex = uid_of(machine, "cx00");
  ASSERT_TRUE(machine.set_online(uid_of(machine, "hbm00"), false));
  const auto best = best_targets(machine, Query{.initiators = {complex}, .coherent = true});
  ASSERT_TRUE(best);
  EXPECT_EQ(names(machine, *best), (Names{"hbm01", "ddr0", "ddr1", "hbm10", "hbm11"}));
  const auto all = best_targets(machine, Query{.initiators = {complex}, .coherent = true, .include_offline = true});
  ASSERT_TRUE(all);
  EXPECT_EQ(names(machine, *all)[0], "hbm00");
}

TEST(ReferenceMachine, AllPaths) {
  const Topology machine = reference_machine();
  const auto found = paths(machine, uid_of(machine, "cx00"), uid_of(machine, "hbm01"));
  ASSERT_TRUE(found);
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(hop_names(machine, found->front()), (Names{"hbm00-link", "complexes0", "hbm01-link"}));
  EXPECT_EQ(found->front().figures.properties.bandwidth()->number, mib_per_s(100));
  EXPECT_EQ(found->front().figures.properties.latency()->number, 280u);

  const auto far = paths(machine, uid_of(machine, "cx10"), uid_of(machine, "gpu0-gddr"));
  ASSERT_TRUE(far);
  ASSERT_EQ(far->size(), 1u);
  EXPECT_EQ(hop_names(machine, far->front()), (Names{"ddr1-link", "interconnect", "ddr0-link", "visitors-pcie0",
                                                     "pcie0", "pcie-gddr0", "gpu0-gddr-link"}));
  EXPECT_FALSE(far->front().figures.coherent);

  // HBM of a GPU is nothing that a CPU reaches; a CPU and a GPU meet on PCIe.
  EXPECT_TRUE(paths(machine, uid_of(machine, "cx00"), uid_of(machine, "gpu0-hbm"))->empty());
  EXPECT_EQ(paths(machine, uid_of(machine, "cx00"), uid_of(machine, "gpu1"))->size(),
            2u);  // pcie0, and on to its GDDR's link
  EXPECT_FALSE(paths(machine, uid_of(machine, "ddr0"), uid_of(machine, "cx00")));
  EXPECT_FALSE(paths(machine, uid_of(machine, "cx00"), 12345));
}

TEST(ReferenceMachine, FindsObjectsByWhatTheSystemCallsThem) {
  const Topology machine = reference_machine();
  EXPECT_EQ(machine.target_of_node(3)->name, "hbm01");
  EXPECT_EQ(machine.target_of_node(77), nullptr);
  EXPECT_EQ(machine.target_of_node(-1), nullptr);
  EXPECT_EQ(machine.initiator_of_cpu(17)->name, "cx10");
  EXPECT_EQ(machine.initiator_of_device("gpu3")->name, "gpu3");
  EXPECT_EQ(machine.target_of_device("gpu3")->name, "gpu3-hbm");
  EXPECT_EQ(machine.target_of_device(""), nullptr);
  EXPECT_EQ(entry_name(*machine.find("hbm00"), ObjectType::kTarget), "v0-3-target");
}

TEST(Topology, AnUnknownVersionIsAsGoodAsAbsent) {
  Topology machine = reference_machine();
  Topology copy;
  copy.info = machine.info;
  for (Target target : machine.targets()) {
    if (target.name == "hbm00") target.version = 1;
    ASSERT_TRUE(copy.add(target));
  }
  for (const Initiator& initiator : machine.initiators()) ASSERT_TRUE(copy.add(initiator));
  for (const Link& link : machine.links()) ASSERT_TRUE(copy.add(link));
  for (Bridge bridge : machine.bridges()) {
    if (bridge.name == "interconnect") bridge.version = 7;
    ASSERT_TRUE(copy.add(bridge));
  }
  const auto best = best_targets(copy, Query{.initiators = {uid_of(copy, "cx00")}});
  ASSERT_TRUE(best);
  EXPECT_EQ(names(copy, *best), (Names{"hbm01", "ddr0", "gpu0-gddr", "gpu1-gddr"}));
  EXPECT_TRUE(paths(copy, uid_of(copy, "cx00"), uid_of(copy, "ddr1"))->empty());
}

TEST(Topology, RefusesWhatContradictsItself) {
  Topology machine = reference_machine();
  const Topology before = machine;
  Target twin;
  twin.name = "ddr0";
  EXPECT_FALSE(machine.add(twin));
  twin.name = "another";
  twin.uid = 3;
  EXPECT_FALSE(machine.add(twin));
  Link link;
  link.initiators = {uid_of(machine, "ddr0")};
  EXPECT_FALSE(machine.add(link));
  Bridge bridge;
  bridge.from = bridge.to = uid_of(machine, "pcie0");
  EXPECT_FALSE(machine.add(bridge));
  EXPECT_FALSE(machine.remove(99999));
  EXPECT_FALSE(machine.set_free(uid_of(machine, "cx00"), 1));
  EXPECT_FALSE(machine.set_figure(uid_of(machine, "cx00"), Property::kLatency, {1, Source::kMeasured}));
  EXPECT_EQ(machine, before);
}

TEST(Topology, ForgetsWhatIsRemoved) {
  Topology machine = reference_machine();
  const Uid last = machine.next_uid();
  ASSERT_TRUE(machine.remove(uid_of(machine, "gpu0")));
  ASSERT_TRUE(machine.remove(uid_of(machine, "hbm00-link")));
  EXPECT_EQ(machine.find("gpu0"), nullptr);
  EXPECT_EQ(machine.find("complexes0"), nullptr);
  const auto best = best_targets(machine, Query{.initiators = {uid_of(machine, "cx00")}, .limit = 1});
  ASSERT_TRUE(best);
  EXPECT_EQ(names(machine, *best), Names{"ddr0"});
  Target fresh;
  EXPECT_EQ(*machine.add(fresh), last);
}

// Random hops with any subset of the figures.
PathFigures random_hop(std::mt19937& random) {
  PathFigures hop;
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    if (random() % 3 == 0) continue;
    hop.properties.set(static_cast<Property>(i), {random() % 1000, static_cast<Source>(random() % 4)});
  }
  hop.coherent = random() % 4 != 0;
  hop.atomic = random() % 4 != 0;
  return hop;
}

TEST(PathArithmetic, IsAssociativeAndCommutative) {
  std::mt19937 random(20181203);
  for (int i = 0; i < 20000; ++i) {
    const PathFigures a = random_hop(random), b = random_hop(random), c = random_hop(random);
    ASSERT_EQ(join(a, b), join(b, a)) << "round " << i;
    ASSERT_EQ(join(join(a, b), c), join(a, join(b, c))) << "round " << i;
  }
}

TEST(PathArithmetic, TakesMinimumOfBandwidthsAndSumOfLatencies) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const PathFigures a = random_hop(random), b = random_hop(random), path = join(a, b);
    for (std::size_t p = 0; p < kPropertyCount; ++p) {
      const auto property = static_cast<Property>(p);
      const auto x = a.properties.figure(property), y = b.properties.figure(property),
                 z = path.properties.figure(property);
      ASSERT_EQ(z.has_value(), x.has_value() && y.has_value()) << "round " << i << " " << name_of(property);
      if (!z) continue;
      const bool sum = unit_of(property) == "ns", max = unit_of(property) == "bytes";
      const auto expected = sum   ? x->number + y->number
                            : max ? std::max(x->number, y->number)
                                  : std::min(x->number, y->number);
      ASSERT_EQ(z->number, expected) << "round " << i << " " << name_of(property);
      ASSERT_EQ(z->source, std::min(x->source, y->source));
    }
    ASSERT_EQ(path.coherent, a.coherent && b.coherent);
    ASSERT_EQ(path.atomic, a.atomic && b.atomic);
  }
}

// A random machine of a few objects; now and then a figure is missing.
Topology random_machine(std::mt19937& random) {
  Topology machine;
  std::vector<Uid> initiators, targets, links;
  for (int i = 0; i < 3; ++i) initiators.push_back(*machine.add(Initiator{}));
  for (int i = 0; i < 3; ++i) targets.push_back(*machine.add(Target{}));
  const auto some = [&](const std::vector<Uid>& all) {
    std::vector<Uid> chosen;
    for (const Uid uid : all) {
      if (random() % 2 == 0) chosen.push_back(uid);
    }
    return chosen;
  };
  const auto figures = [&](auto& hop) {
    if (random() % 10 != 0) hop.properties.set(Property::kBandwidth, {1 + random() % 5, Source::kConfigured});
    if (random() % 10 != 0) hop.properties.set(Property::kLatency, {1 + random() % 5, Source::kConfigured});
    hop.coherent = random() % 4 != 0;
    hop.atomic = random() % 4 != 0;
  };
  for (int i = 0; i < 5; ++i) {
    Link link;
    link.initiators = some(initiators);
    link.targets = some(targets);
    figures(link);
    links.push_back(*machine.add(std::move(link)));
  }
  for (int i = 0; i < 7; ++i) {
    Bridge bridge;
    bridge.from = links[random() % links.size()];
    bridge.to = links[random() % links.size()];
    if (bridge.from == bridge.to) continue;
    bridge.both_ways = random() % 2 == 0;
    bridge.initiators = some(initiators);
    figures(bridge);
    static_cast<void>(*machine.add(std::move(bridge)));
  }
  return machine;
}

// The search for the best way finds what trying all paths finds.
TEST(PathArithmetic, TheBestWayIsTheBestOfAllPaths) {
  std::mt19937 random(2024);
  int reached = 0, crossed = 0;
  for (int round = 0; round < 2000; ++round) {
    const Topology machine = random_machine(random);
    for (const Initiator& initiator : machine.initiators()) {
      for (const Target& target : machine.targets()) {
        const auto all = paths(machine, initiator.uid, target.uid, 100'000);
        ASSERT_TRUE(all);
        for (const bool by_latency : {false, true}) {
          Query query;
          query.rank = by_latency ? Rank::kLatency : Rank::kBandwidth;
          query.coherent = random() % 2 == 0;
          // A figure that is not known is worse than any: bandwidth 0, latency without end.
          std::optional<std::pair<std::uint64_t, std::uint64_t>> best;
          for (const Path& path : *all) {
            if (query.coherent && !path.figures.coherent) continue;
            const auto bandwidth = path.figures.properties.bandwidth(), latency = path.figures.properties.latency();
            const std::uint64_t narrow = bandwidth ? 1000 - bandwidth->number : 1000;
            const std::uint64_t slow = latency ? latency->number : 1000;
            const auto figures = by_latency ? std::pair(slow, narrow) : std::pair(narrow, slow);
            if (!best || figures < *best) best = figures;
          }
          const auto way = reach(machine, initiator.uid, target.uid, query);
          ASSERT_EQ(way.has_value(), best.has_value()) << "round " << round;
          if (!way) continue;
          ++reached;
          crossed += way->bridges > 0 ? 1 : 0;
          const std::uint64_t narrow = way->bandwidth ? 1000 - way->bandwidth->number : 1000;
          const std::uint64_t slow = way->latency ? way->latency->number : 1000;
          ASSERT_EQ(by_latency ? std::pair(slow, narrow) : std::pair(narrow, slow), *best) << "round " << round;
        }
      }
    }
  }
  EXPECT_GT(reached, 10'000);
  EXPECT_GT(crossed, 1'000);
}

// A set of initiators reaches what each of them reaches, with the worst of the figures that each has alone.
void expect_the_worst_of_each(const Topology& machine, const Query& query) {
  const auto all = best_targets(machine, query);
  ASSERT_TRUE(all);
  std::size_t found = 0;
  for (const Target& target : machine.targets()) {
    bool reached = true;
    std::optional<std::uint64_t> least = ~std::uint64_t{0};
    for (const Uid initiator : query.initiators) {
      const auto alone = reach(machine, initiator, target.uid, query);
      reached = reached && alone.has_value();
      if (!reached) break;
      least = least && alone->bandwidth ? std::optional(std::min(*least, alone->bandwidth->number)) : std::nullopt;
    }
    const auto one = std::find_if(all->begin(), all->end(), [&](const auto& c) { return c.target == target.uid; });
    ASSERT_EQ(one != all->end(), reached);
    if (!reached) continue;
    ++found;
    const std::optional<std::uint64_t> bandwidth =
        one->bandwidth ? std::optional(one->bandwidth->number) : std::nullopt;
    ASSERT_EQ(bandwidth, least);
  }
  EXPECT_EQ(found, all->size());
}

TEST(PathArithmetic, SetsOfInitiatorsGetTheWorstOfEach) {
  std::mt19937 random(7);
  const auto some_of = [&](const Topology& machine) {
    Query query;
    for (const Initiator& initiator : machine.initiators()) {
      if (random() % 3 != 0) query.initiators.push_back(initiator.uid);
    }
    std::shuffle(query.initiators.begin(), query.initiators.end(), random);
    return query;
  };
  const Topology large = many_nodes(64);
  for (int round = 0; round < 1000; ++round) {
    const Topology machine = random_machine(random);
    const Query query = some_of(machine);
    if (!query.initiators.empty()) expect_the_worst_of_each(machine, query);
    if (round % 100 == 0) expect_the_worst_of_each(large, some_of(large));
    if (HasFatalFailure()) return;
  }
}

TEST(PathArithmetic, LatenciesDoNotOverflow) {
  PathFigures a;
  a.properties.set(Property::kLatency, {~std::uint64_t{0} - 1, Source::kConfigured});
  EXPECT_EQ(join(a, a).properties.latency()->number, ~std::uint64_t{0});
}

}  // namespace
}  // namespace mirrorcl::hms
