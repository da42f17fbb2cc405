// SPDX-License-Identifier: Apache-2.0
// Measuring itself is tested for working at all; what it measures depends on who else is busy.
#include "hms/measure.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "hms/discovery.h"
#include "hms/query.h"
#include "hms/reference_machine.h"

namespace mirrorcl::hms {
namespace {

class MeasurementsFile : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_ = ::testing::TempDir() + "hms-measure-" + std::to_string(getpid());
  std::string path_ = folder_ + "/deep/file.json";
};

Properties some_figures() {
  Properties figures;
  figures.set(Property::kBandwidth, {1000, Source::kMeasured});
  figures.set(Property::kLatency, {77, Source::kMeasured});
  return figures;
}

TEST_F(MeasurementsFile, RoundTrips) {
  EXPECT_TRUE(Measurements::load(path_)->empty());
  Measurements measurements;
  measurements.add("cpu \"0\"", "node0", some_figures());
  measurements.add("cpu1", "node0", some_figures());
  ASSERT_TRUE(measurements.save(path_));
  const auto again = Measurements::load(path_);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, measurements);
  EXPECT_EQ(again->get("cpu \"0\"", "node0"), some_figures());
  EXPECT_TRUE(again->get("cpu2", "node0").empty());
}

TEST_F(MeasurementsFile, ADamagedOneSaysWhatToDo) {
  std::filesystem::create_directories(folder_);
  const std::string path = folder_ + "/x.json";
  for (const char* text :
       {"", "{", "[]", "{\"format\": \"mirrorcl-hms-measurements\"}",
        "{\"format\": \"mirrorcl-hms-measurements\", \"measurements\": [1]}",
        "{\"format\": \"mirrorcl-hms-measurements\", \"measurements\": [{\"initiator\": \"a\", \"target\": "
        "\"b\", \"figures\": {\"colour\": 1}}]}"}) {
    std::ofstream(path) << text;
    const auto result = Measurements::load(path);
    ASSERT_FALSE(result) << text;
    EXPECT_NE(result.error().message.find("delete it and run 'hms measure'"), std::string::npos);
  }
}

TEST(Measure, ReplacesAssumedFiguresOnly) {
  const auto before = discover();
  ASSERT_TRUE(before) << before.error().message;
  const Initiator& cpus = before->initiators().front();
  const Target& node = before->targets().front();
  Measurements measurements;
  measurements.add(cpus.name, node.name, some_figures());
  const auto after = discover({.measurements = &measurements});
  ASSERT_TRUE(after);
  const auto old_way = reach(*before, cpus.uid, node.uid), new_way = reach(*after, cpus.uid, node.uid);
  ASSERT_TRUE(old_way && new_way);
  if (old_way->bandwidth->source == Source::kAssumed) {
    EXPECT_EQ(new_way->bandwidth, (Value{1000, Source::kMeasured}));
  } else {
    EXPECT_EQ(new_way->bandwidth, old_way->bandwidth);
  }
}

TEST(Measure, GivesFiguresOfThisMachine) {
  const auto machine = discover();
  ASSERT_TRUE(machine);
  const Initiator& cpus = machine->initiators().front();
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  for (const auto cpu : cpus.cpus.members()) {
    if (CPU_ISSET(cpu, &allowed) == 0) GTEST_SKIP() << "CPU " << cpu << " is not for this process";
  }
  const auto figures =
      measure(cpus, machine->targets().front(), {.time = std::chrono::milliseconds(10), .bytes = 16 << 20});
  if (!figures && figures.error().code == ErrorCode::kNotSupported) GTEST_SKIP() << figures.error().message;
  ASSERT_TRUE(figures) << figures.error().message;
  // From a machine that does nothing else to one that hardly gets to run.
  EXPECT_GT(figures->bandwidth()->number, 10u);
  EXPECT_GT(figures->bandwidth(Direction::kRead)->number, 10u);
  EXPECT_GT(figures->latency()->number, 0u);
  EXPECT_LT(figures->latency()->number, 1'000'000u);
  EXPECT_EQ(figures->latency()->source, Source::kMeasured);
  cpu_set_t afterwards;
  ASSERT_EQ(sched_getaffinity(0, sizeof afterwards, &afterwards), 0);
  EXPECT_TRUE(CPU_EQUAL(&allowed, &afterwards));
}

TEST(Measure, RefusesWhatItCannotMeasure) {
  const Topology machine = reference_machine();
  const auto initiator = [&](const char* name) { return *machine.initiator(machine.find(name)->uid); };
  const auto target = [&](const char* name) { return *machine.target(machine.find(name)->uid); };
  EXPECT_EQ(measure(initiator("gpu0"), target("ddr0")).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(measure(initiator("cx00"), target("gpu0-hbm")).error().code, ErrorCode::kInvalidArgument);
  Target full = target("ddr0");
  full.free = 1000;
  EXPECT_EQ(measure(initiator("cx00"), full).error().code, ErrorCode::kOutOfHostMemory);
  Target absent = target("ddr0");
  absent.node = 900;
  EXPECT_EQ(measure(initiator("cx00"), absent, {.bytes = 1 << 20}).error().code, ErrorCode::kNotSupported);
}

TEST(Measure, LeavesOutWhatTheFirmwareTells) {
  // All figures of the reference machine are configured.
  int pairs = 0;
  const auto none = measure_machine(
      reference_machine(), {}, [&](const Initiator&, const Target&) { ++pairs; },
      [&](const Initiator&, const Target&, const Error&) { ++pairs; });
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(pairs, 0);
}

}  // namespace
}  // namespace mirrorcl::hms
