// SPDX-License-Identifier: Apache-2.0
#include "hms/json_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <string>

#include "hms/cells.h"
#include "hms/query.h"
#include "hms/reference_machine.h"
#include "hms/test_machines.h"

namespace mirrorcl::hms {
namespace {

TEST(JsonFile, RoundTripLosesNothing) {
  Topology machine = reference_machine();
  machine.info["a \"quoted\" key"] = "a value\nof two lines";
  Target odd;
  odd.name = "odd one";
  odd.version = 5;
  odd.kind = MemoryKind::kSpm;
  odd.size = ~std::uint64_t{0};
  odd.online = false;
  odd.caches = {{1 << 20, 64, 0, 1}, {1 << 21, 0, -1, -1}};
  odd.parent = "hmem.0";
  ASSERT_TRUE(machine.add(odd));
  ASSERT_TRUE(machine.set_figure(machine.find("ddr0-link")->uid, Property::kReadLatency, {7, Source::kMeasured}));
  ASSERT_TRUE(machine.set_figure(machine.find("complexes0")->uid, Property::kGranularity, {64, Source::kAssumed}));
  machine.reserve_uids(1000);
  const std::string text = to_json(machine);
  const auto again = from_json(text);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, machine);
  EXPECT_EQ(to_json(*again), text);
}

TEST(JsonFile, MayBeWrittenByHand) {
  const auto machine = from_json(R"({
    "format": "mirrorcl-hms", "version": 1,
    "targets": [{"name": "dram", "node": 0, "size": 1000000}, {"name": "far", "kind": "cxl", "size": 2000000}],
    "initiators": [{"name": "cpus", "cpus": "0-7"}],
    "links": [{"initiators": ["cpus"], "targets": ["dram"], "bandwidth": 90000, "latency": 90},
              {"initiators": "2", "targets": [1], "bandwidth": {"value": 20000, "source": "assumed"}}]})");
  ASSERT_TRUE(machine) << machine.error().message;
  const auto best = best_targets(*machine, Query{.initiators = {machine->find("cpus")->uid}});
  ASSERT_TRUE(best);
  ASSERT_EQ(best->size(), 2u);
  EXPECT_EQ(machine->target((*best)[0].target)->name, "dram");
  EXPECT_EQ((*best)[0].bandwidth, (Value{90000, Source::kConfigured}));
  EXPECT_EQ((*best)[1].bandwidth, (Value{20000, Source::kAssumed}));
  EXPECT_FALSE((*best)[1].latency);
}

TEST(JsonFile, SaysWhatIsWrongAndWhere) {
  const auto message = [](const std::string& body) {
    const auto result = from_json(R"({"format": "mirrorcl-hms", "version": 1, )" + body + "}");
    return result ? std::string("no error") : result.error().message;
  };
  EXPECT_EQ(message(R"("targets": [{"size": 1}, {"size": 1, "kid": "hbm"}])"),
            "targets[1]: 'kid' is not a key of this object");
  EXPECT_EQ(message(R"("targets": [{"name": "a"}])"), "targets[0]: 'size' is missing");
  EXPECT_EQ(message(R"("targets": [{"size": -1}])"),
            "targets[0]: 'size' should be a whole number from 0 to 18446744073709551615");
  EXPECT_EQ(message(R"("targets": [{"size": 1, "kind": "sram"}])"), "targets[0]: 'kind' has the unknown value 'sram'");
  EXPECT_EQ(message(R"("targets": [{"size": 1, "uid": 3}, {"size": 1, "uid": 3}])"), "targets[1]: uid 3 is used twice");
  EXPECT_EQ(message(R"("links": [{"targets": ["x"]}])"), "links[0]: 'targets' refers to 'x', which does not exist");
  EXPECT_EQ(message(R"("links": [{"targets": [4]}])"), "links[0]: 'link0' refers to target 4, which does not exist");
  EXPECT_EQ(message(R"("bridges": [{"from": 1}])"), "bridges[0]: 'to' is missing");
  EXPECT_EQ(message(R"("links": [{"latency": {"value": 1, "source": "rumour"}}])"),
            "figure 'latency': 'source' has the unknown value 'rumour'");
  EXPECT_EQ(message(R"("links": [{"bandwidth": 1.5}])"),
            "links[0]: 'bandwidth' should be a whole number from 0 to 18446744073709551615");
  EXPECT_EQ(message(R"("initiators": {})"), "the file: 'initiators' should be a list [ ... ]");
  EXPECT_EQ(from_json(R"({"format": "gltf"})").error().message,
            "the file: is not a topology: its \"format\" should be \"mirrorcl-hms\"");
  EXPECT_EQ(from_json(R"({"format": "mirrorcl-hms", "version": 2})").error().message,
            "the file: has version 2 of the format; this program reads version 1");
  EXPECT_EQ(from_json("[]").error().message, "the file: should be an object { ... }");
  EXPECT_NE(from_json("{").error().message.find("not JSON: "), std::string::npos);
}

// Every mutation is either read, and then written and read again the same, or refused with a message.
TEST(JsonFile, SurvivesMutations) {
  const std::string original = to_json(reference_machine());
  std::mt19937 random(42);
  int read = 0, refused = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::string text = mutated(original, random);
    const auto machine = from_json(text);
    if (!machine) {
      ++refused;
      ASSERT_FALSE(machine.error().message.empty());
      continue;
    }
    ++read;
    const auto again = from_json(to_json(*machine));
    ASSERT_TRUE(again) << again.error().message << "\nin round " << round;
    ASSERT_EQ(*again, *machine) << "round " << round;
    exercise(*machine);
  }
  EXPECT_GT(read, 50);
  EXPECT_GT(refused, 1000);
}

class ManyNodes : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kNodes = 1024;
  static Uid initiator(const Topology& machine, std::uint32_t node) { return machine.initiator_of_cpu(node * 4)->uid; }
};

// 1,048,576 cells of three kinds (own node, own package of eight, elsewhere) are a link per node, one per package, one
// for the rest.
TEST_F(ManyNodes, EqualCellsBecomeFewLinks) {
  const Topology machine = many_nodes(kNodes);
  EXPECT_EQ(machine.links().size(), kNodes + kNodes / 8 + 1);
  EXPECT_LT(to_json(machine).size(), 2u << 20);
}

TEST_F(ManyNodes, AnswersAreThoseOfTheCells) {
  const Topology machine = many_nodes(kNodes);
  for (const std::uint32_t node : {0u, 7u, 8u, 500u, 1023u}) {
    const auto best = best_targets(machine, Query{.initiators = {initiator(machine, node)}});
    ASSERT_TRUE(best);
    ASSERT_EQ(best->size(), kNodes);
    EXPECT_EQ(machine.target((*best)[0].target)->node, static_cast<int>(node));
    EXPECT_EQ((*best)[0].bandwidth->number, 100000u);
    for (std::size_t i = 1; i < 8; ++i) {
      EXPECT_EQ(machine.target((*best)[i].target)->node / 8, static_cast<int>(node / 8));
      EXPECT_EQ((*best)[i].bandwidth->number, 50000u);
      EXPECT_EQ((*best)[i].latency->number, 120u);
    }
    EXPECT_EQ((*best)[8].bandwidth->number, 20000u);
    EXPECT_EQ((*best)[1023].latency->number, 200u);
    // The links of merged cells that also cover the pair are not paths of their own.
    EXPECT_EQ(paths(machine, initiator(machine, node), (*best)[0].target)->size(), 1u);
    EXPECT_EQ(paths(machine, initiator(machine, node), (*best)[1].target)->size(), 1u);
    EXPECT_EQ(paths(machine, initiator(machine, node), (*best)[1000].target)->size(), 1u);
  }
}

// The figures asked for are a second and a millisecond; a busy machine and a sanitizer get twenty times as much here.
// What a quiet one needs is in docs/hms.md.
TEST_F(ManyNodes, AreLoadedAndQueriedFast) {
  const std::string text = to_json(many_nodes(kNodes));
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto machine = from_json(text);
  const auto loaded = Clock::now();
  ASSERT_TRUE(machine);
  constexpr int kQueries = 100;
  for (int i = 0; i < kQueries; ++i) {
    const auto best = best_targets(*machine, Query{.initiators = {initiator(*machine, 10)}, .limit = 4});
    ASSERT_TRUE(best);
  }
  const auto queried = Clock::now();
  std::vector<Uid> everybody;
  for (const Initiator& one : machine->initiators()) everybody.push_back(one.uid);
  ASSERT_EQ(best_targets(*machine, Query{.initiators = everybody})->size(), kNodes);
  const auto all = Clock::now();
  const auto ms = [](auto duration) { return std::chrono::duration<double, std::milli>(duration).count(); };
  RecordProperty("load_us", static_cast<int>(1000 * ms(loaded - start)));
  RecordProperty("query_us", static_cast<int>(1000 * ms(queried - loaded) / kQueries));
  RecordProperty("query_of_all_us", static_cast<int>(1000 * ms(all - queried)));
  EXPECT_LT(ms(loaded - start), 20 * 1000.0);
  EXPECT_LT(ms(queried - loaded) / kQueries, 20.0);
}

TEST(CellTable, FiguresThatAreNotComparableAreNotMixed) {
  // Two initiators, two targets: own target wide but slow to answer, the other one narrow but quick.
  Topology machine;
  std::vector<Uid> initiators, targets;
  for (int i = 0; i < 2; ++i) {
    initiators.push_back(*machine.add(Initiator{}));
    targets.push_back(*machine.add(Target{}));
  }
  PathFigures wide, quick;
  wide.properties.set(Property::kBandwidth, {1000, Source::kFirmware});
  wide.properties.set(Property::kLatency, {300, Source::kFirmware});
  quick.properties.set(Property::kBandwidth, {100, Source::kFirmware});
  quick.properties.set(Property::kLatency, {100, Source::kFirmware});
  CellTable cells(2, 2);
  for (std::size_t i = 0; i < 2; ++i) {
    cells.set(i, i, wide);
    cells.set(i, 1 - i, quick);
  }
  EXPECT_EQ(*cells.add_links(machine, initiators, targets), 4u);
  for (const Link& link : machine.links()) EXPECT_FALSE(link.merged);
  EXPECT_EQ(reach(machine, initiators[0], targets[0], Query{.rank = Rank::kLatency})->latency->number, 300u);
}

// Whatever the figures, what initiators reach and how is what the cells say.
TEST(CellTable, LinksSayWhatTheCellsSay) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const std::size_t rows = 1 + random() % 6, columns = 1 + random() % 6;
    Topology machine;
    std::vector<Uid> initiators, targets;
    for (std::size_t i = 0; i < rows; ++i) initiators.push_back(*machine.add(Initiator{}));
    for (std::size_t i = 0; i < columns; ++i) targets.push_back(*machine.add(Target{}));
    std::vector<PathFigures> figures(1 + random() % 4);
    for (PathFigures& one : figures) {
      one.properties.set(Property::kBandwidth, {100 * (1 + random() % 3), Source::kFirmware});
      one.properties.set(Property::kLatency, {100 * (1 + random() % 3), Source::kFirmware});
    }
    CellTable cells(rows, columns);
    std::vector<int> chosen(rows * columns, -1);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      if (random() % 5 == 0) continue;
      chosen[i] = static_cast<int>(random() % figures.size());
      cells.set(i / columns, i % columns, figures[static_cast<std::size_t>(chosen[i])]);
    }
    ASSERT_TRUE(cells.add_links(machine, initiators, targets));
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const auto way = reach(machine, initiators[i / columns], targets[i % columns]);
      ASSERT_EQ(way.has_value(), chosen[i] >= 0) << "round " << round;
      if (!way) continue;
      const Properties& expected = figures[static_cast<std::size_t>(chosen[i])].properties;
      ASSERT_EQ(way->bandwidth, expected.bandwidth()) << "round " << round;
      ASSERT_EQ(way->latency, expected.latency()) << "round " << round;
    }
  }
}

}  // namespace
}  // namespace mirrorcl::hms
