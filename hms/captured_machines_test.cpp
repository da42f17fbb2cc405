// SPDX-License-Identifier: Apache-2.0
// What the library answers for captured machines. Every expected figure was worked out by hand from the files in
// testdata/: an XML file's <memattr_value> and <distances2>, a tree's node*/access*/initiators, node*/distance,
// node*/meminfo. Where they are silent the typical figures of discovery.h are scaled by distance / 10 (20 if there is
// no SLIT). GB/s of PCI links are 10^9 bytes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "hms/discovery.h"
#include "hms/json_file.h"
#include "hms/load.h"
#include "hms/process.h"
#include "hms/query.h"
#include "hms/test_machines.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uint64_t kKiB = 1024;

std::string testdata(const std::string& name) {
  return std::string(HMS_TESTDATA) + "/" + name;
}

Topology captured(const std::string& name) {
  auto machine = load(testdata(name));
  EXPECT_TRUE(machine) << machine.error().message;
  return machine ? *std::move(machine) : Topology{};
}

// One line for each answer: "node7 90000 firmware 120 assumed".
std::string line(const Topology& machine, const Candidate& candidate) {
  const auto figure = [](const std::optional<Value>& value) {
    return value ? std::to_string(value->number) + " " + std::string(name_of(value->source)) : std::string("unknown");
  };
  return machine.target(candidate.target)->name + " " + figure(candidate.bandwidth) + " " + figure(candidate.latency);
}

using Lines = std::vector<std::string>;

Lines best(const Topology& machine, const Initiator* initiator, Query query = {}) {
  if (initiator == nullptr) return {"no such initiator"};
  query.initiators = {initiator->uid};
  const auto candidates = best_targets(machine, query);
  if (!candidates) return {candidates.error().message};
  Lines lines;
  for (const Candidate& candidate : *candidates) lines.push_back(line(machine, candidate));
  return lines;
}

Lines best_of_cpu(const Topology& machine, std::uint32_t cpu, Query query = {}) {
  return best(machine, machine.initiator_of_cpu(cpu), query);
}

// Bandwidths of local HBM and DRAM in <memattr name="Bandwidth">; no latencies, no distances. CPU 0 is in cpuset
// 0x000f000f,0x000f000f.
TEST(CapturedMachine, XeonPhiWithHbmInFourClusters) {
  const Topology machine = captured("64intel64-heteromem.xml");
  EXPECT_EQ(machine.targets().size(), 8u);
  EXPECT_EQ(machine.initiators().size(), 4u);
  EXPECT_EQ(best_of_cpu(machine, 0), (Lines{"node7 90000 firmware 120 assumed", "node4 45000 assumed 240 assumed",
                                            "node5 45000 assumed 240 assumed", "node6 45000 assumed 240 assumed",
                                            "node0 22500 firmware 100 assumed", "node1 11250 assumed 200 assumed",
                                            "node2 11250 assumed 200 assumed", "node3 11250 assumed 200 assumed"}));
  // CPU 44 = 0x1000 in the second word: cluster 3, whose HBM is node 6.
  EXPECT_EQ(best_of_cpu(machine, 44, {.limit = 1}), Lines{"node6 90000 firmware 120 assumed"});
  EXPECT_EQ(best_of_cpu(machine, 44, {.rank = Rank::kLatency, .limit = 1}), Lines{"node3 22500 firmware 100 assumed"});
  // All HBM has 2 GiB; the local one comes first.
  EXPECT_EQ(best_of_cpu(machine, 44, {.rank = Rank::kCapacity, .limit = 1}), Lines{"node6 90000 firmware 120 assumed"});
  EXPECT_EQ(machine.target_of_node(7)->kind, MemoryKind::kHbm);
  EXPECT_EQ(machine.target_of_node(7)->size, 2147483648u);
  EXPECT_EQ(machine.info.at("OSRelease"), "3.10.0-327.el7.x86_64");  // of a topology's <info>, version 3 of the format
}

// The only figure is the bandwidth of node 1, 20 for everybody (initiator_cpuset 0xff); custom attributes are not
// figures of ours.
TEST(CapturedMachine, OneStrangeFigure) {
  const Topology machine = captured("8intel64-4n2t-memattrs.xml");
  EXPECT_EQ(best_of_cpu(machine, 0), (Lines{"node0 50000 assumed 100 assumed", "node2 25000 assumed 200 assumed",
                                            "node3 25000 assumed 200 assumed", "node1 20 firmware 200 assumed"}));
  EXPECT_EQ(best_of_cpu(machine, 2, {.rank = Rank::kLatency, .limit = 1}), Lines{"node1 20 firmware 100 assumed"});
}

// Sixteen packages of six CPUs on four nodes, SLIT 10 and 26, devices near each node whose links' speed is unknown.
TEST(CapturedMachine, FourBoxesWithDevices) {
  const Topology machine = captured("96em64t-4n4d3ca2co-pci.xml");
  int cpus = 0, devices = 0;
  for (const Initiator& initiator : machine.initiators()) (initiator.kind == InitiatorKind::kCpu ? cpus : devices)++;
  EXPECT_EQ(cpus, 16);
  EXPECT_EQ(devices, 14);  // eight Ethernet, four SAS, one IDE, one VGA; bridges are none
  // 50000 / 2.6 = 19231
  EXPECT_EQ(best_of_cpu(machine, 30), (Lines{"node1 50000 assumed 100 assumed", "node0 19231 assumed 260 assumed",
                                             "node2 19231 assumed 260 assumed", "node3 19231 assumed 260 assumed"}));
  // SAS controller of the second box: its link 400, the root 100, and what node 1's CPUs have.
  EXPECT_EQ(best(machine, machine.initiator_of_device("0000:34:00.0")),
            (Lines{"node1 unknown 600 assumed", "node0 unknown 760 assumed", "node2 unknown 760 assumed",
                   "node3 unknown 760 assumed"}));
  EXPECT_EQ(machine.initiator_of_device("0000:34:00.0")->cpus.to_string(), "24-47");
}

// A virtual machine with CXL expanders behind PCIe 1.0 x1 switches (0.25 GB/s = 238 MiB/s) and one DAX region; none in
// use as a node.
TEST(CapturedMachine, CxlMemoryAndDaxRegion) {
  const Topology machine = captured("cxlmem+dax.v2.xml");
  EXPECT_EQ(best_of_cpu(machine, 0), Lines{"node0 50000 assumed 100 assumed"});
  EXPECT_EQ(
      best_of_cpu(machine, 3, {.rank = Rank::kCapacity, .include_offline = true}),
      (Lines{"node0 50000 assumed 100 assumed", "dax0.0 50000 assumed 120 assumed", "mem1 238 firmware 250 assumed",
             "mem2 238 firmware 250 assumed", "mem0 238 firmware 250 assumed", "mem3 238 firmware 250 assumed"}));
  const Target* expander = machine.find("mem1") != nullptr ? machine.target(machine.find("mem1")->uid) : nullptr;
  ASSERT_NE(expander, nullptr);
  EXPECT_EQ(expander->kind, MemoryKind::kCxl);
  EXPECT_EQ(expander->size, (262144u + 262144u) * kKiB);  // volatile and persistent
  EXPECT_EQ(expander->parent, "0000:16:00.0");
  EXPECT_FALSE(expander->online);
  EXPECT_EQ(machine.target(machine.find("dax0.0")->uid)->size, 1048576u * kKiB);
  // The Ethernet card: PCIe 1.0 x1 on the same root, so its way to memory is as narrow.
  EXPECT_EQ(best(machine, machine.initiator_of_device("0000:00:02.0")), Lines{"node0 238 assumed 600 assumed"});
}

// node*/access1: DRAM (0, 1) 1000, HBM (2, 4) 10000, persistent (6, 8, 9) 100 MiB/s for the CPUs of the node that
// initiators/ links to; no latencies; SLIT 20 to all others.
TEST(CapturedMachine, ThreeKindsOfMemory) {
  const Topology machine = captured("fakeheteromemtiers");
  EXPECT_EQ(best_of_cpu(machine, 2),
            (Lines{"node4 10000 firmware 120 assumed", "node2 5000 assumed 240 assumed",
                   "node1 1000 firmware 100 assumed", "node0 500 assumed 200 assumed", "node6 100 firmware 300 assumed",
                   "node8 50 assumed 600 assumed", "node9 50 assumed 600 assumed"}));
  // CPU 0 has no HBM of its own: half of 10000 is still the most.
  EXPECT_EQ(
      best_of_cpu(machine, 0, {.limit = 3}),
      (Lines{"node4 5000 assumed 240 assumed", "node2 5000 assumed 240 assumed", "node0 1000 firmware 100 assumed"}));
  EXPECT_EQ(best_of_cpu(machine, 4, {.limit = 1}), Lines{"node2 10000 firmware 120 assumed"});
  EXPECT_EQ(machine.target_of_node(8)->kind, MemoryKind::kNvm);
  EXPECT_EQ(machine.target_of_node(0)->free, (2814956u + 23776u) * kKiB);  // MemFree and Inactive(file)
  // 600,000 KiB are free on nodes 0 and 1 only.
  EXPECT_EQ(best_of_cpu(machine, 2, {.min_free = 600'000 * kKiB}),
            (Lines{"node1 1000 firmware 100 assumed", "node0 500 assumed 200 assumed"}));
  EXPECT_EQ(best_of_cpu(machine, 2, {.rank = Rank::kFreeSpace, .limit = 1}), Lines{"node0 500 assumed 200 assumed"});
  EXPECT_EQ(machine.target(machine.find("dax0.0")->uid)->kind, MemoryKind::kSpm);
  EXPECT_FALSE(machine.target(machine.find("dax6.0")->uid)->online);
  EXPECT_EQ(machine.info.at("HostName"), "efi");
}

// CPUs on nodes 0 to 3 without memory, memory on 5 to 10, a generic initiator on 4. access1 (CPUs): 131072 MiB/s and 26
// ns, persistent nodes 7 and 10 78644 and 77. access0 (best initiator): node 4 reaches 5 and 6 with 419431 and 8, 7
// with 8192 and 8.
TEST(CapturedMachine, GenericInitiatorAndCpusWithoutMemory) {
  const Topology machine = captured("fakememinitiators-1np2c+1npp+gi");
  EXPECT_EQ(machine.targets().size(), 6u);
  // SLIT row of node 0, where CPU 0 is: node 5 11, 6 14, 7 17, 8 and 9 21, 10 28. 131072/1.4, 131072/2.1, 78644/2.8;
  // 26*1.4, 26*2.1, 77*2.8.
  EXPECT_EQ(best_of_cpu(machine, 0), (Lines{"node5 131072 firmware 26 firmware", "node6 93623 assumed 36 assumed",
                                            "node7 78644 firmware 77 firmware", "node8 62415 assumed 55 assumed",
                                            "node9 62415 assumed 55 assumed", "node10 28087 assumed 216 assumed"}));
  // SLIT row of node 4: 8 and 9 31, 10 13. 78644/1.3, 131072/3.1; 77*1.3, 26*3.1.
  const Object* generic = machine.find("node4-initiator");
  ASSERT_NE(generic, nullptr);
  EXPECT_EQ(
      best(machine, machine.initiator(generic->uid)),
      (Lines{"node5 419431 firmware 8 firmware", "node6 419431 firmware 8 firmware", "node10 60495 assumed 100 assumed",
             "node8 42281 assumed 81 assumed", "node9 42281 assumed 81 assumed", "node7 8192 firmware 8 firmware"}));
  EXPECT_EQ(machine.initiator(generic->uid)->kind, InitiatorKind::kGeneric);
  EXPECT_EQ(best(machine, machine.initiator(generic->uid), {.rank = Rank::kLatency, .limit = 3}),
            (Lines{"node5 419431 firmware 8 firmware", "node6 419431 firmware 8 firmware",
                   "node7 8192 firmware 8 firmware"}));
  EXPECT_FALSE(machine.info.contains("HostName"));  // not captured
}

// Persistent memory in memory mode: DRAM is a direct-mapped write-back cache of 96 GiB on each node. The HMAT's figures
// are all 0, unknown; SLIT 11 within a package and 21 between them.
TEST(CapturedMachine, MemorySideCaches) {
  const Topology machine = captured("memorysidecaches");
  const MemorySideCache cache{.size = std::uint64_t{96} << 30, .line_size = 64, .indexing = 0, .write_policy = 0};
  ASSERT_EQ(machine.targets().size(), 4u);
  for (const Target& target : machine.targets()) EXPECT_EQ(target.caches, std::vector{cache}) << target.name;
  EXPECT_EQ(best_of_cpu(machine, 40, {.rank = Rank::kLatency}),
            (Lines{"node0 50000 assumed 100 assumed", "node2 45455 assumed 110 assumed",
                   "node1 23810 assumed 210 assumed", "node3 23810 assumed 210 assumed"}));
  EXPECT_EQ(machine.target_of_node(1)->package, 1);
  EXPECT_EQ(machine.target_of_node(2)->package, 0);
}

// scripts/vm/tiers.machine on Linux 6.12: figures are those of its HMAT, of which the kernel shows those of the nearest
// CPUs only. GB/s of QEMU are GiB/s. SLIT: 13 from node 0 to 2, 21 to 1, 31 to 3; from node 1 24 to 2, 28 to 3.
// 100/2.1, 25/3.1, 400/2.4 GiB/s; 90*2.1, 300*3.1, 120*2.4.
TEST(CapturedMachine, TwoPackagesWithFastAndSlowMemory) {
  const Topology machine = captured("qemu-tiers");
  EXPECT_EQ(best_of_cpu(machine, 0), (Lines{"node2 409600 firmware 120 firmware", "node0 102400 firmware 90 firmware",
                                            "node1 48762 assumed 189 assumed", "node3 8258 assumed 930 assumed"}));
  EXPECT_EQ(best_of_cpu(machine, 1), (Lines{"node2 170667 assumed 288 assumed", "node1 102400 firmware 90 firmware",
                                            "node0 48762 assumed 189 assumed", "node3 25600 firmware 300 firmware"}));
  EXPECT_EQ(best_of_cpu(machine, 1, {.rank = Rank::kLatency, .limit = 1}), Lines{"node1 102400 firmware 90 firmware"});
  const MemorySideCache cache{.size = std::uint64_t{64} << 20, .line_size = 64, .indexing = 0, .write_policy = 0};
  EXPECT_EQ(machine.target_of_node(0)->caches, std::vector{cache});
  EXPECT_TRUE(machine.target_of_node(1)->caches.empty());
  // Faster than what is beside it, without CPUs of its own.
  EXPECT_EQ(machine.target_of_node(2)->kind, MemoryKind::kHbm);
  for (const int node : {0, 1, 3}) EXPECT_EQ(machine.target_of_node(node)->kind, MemoryKind::kDram) << node;
  const auto tier = [&](int node) { return machine.target_of_node(node)->tier; };
  EXPECT_EQ(tier(2), 0);
  EXPECT_EQ(tier(0), 1);
  EXPECT_EQ(tier(1), 1);
  EXPECT_EQ(tier(3), 2);
}

// A device of the process with its memory on node 2: everybody reaches that as node 2, and the device reaches all nodes
// as CPU 0 does, which is nearest to it.
TEST(CapturedMachine, MemoryOfADeviceOfTheProcessIsAsFarAsItsNode) {
  const Topology before = captured("qemu-tiers");
  ProcessDeviceUids uids;
  const ProcessDevice device{
      .name = "mirrorcl:0", .memory_size = 1 << 20, .node = 2, .memory_cpu_mappable = true, .native_atomics = true};
  const auto machine = with_device(before, device, &uids);
  ASSERT_TRUE(machine) << machine.error().message;
  const auto way = [&](Uid initiator) { return line(*machine, *reach(*machine, initiator, uids.target)); };
  EXPECT_EQ(way(machine->initiator_of_cpu(0)->uid), "mirrorcl:0-memory 409600 firmware 120 firmware");
  EXPECT_EQ(way(machine->initiator_of_cpu(1)->uid), "mirrorcl:0-memory 170667 assumed 288 assumed");
  EXPECT_EQ(way(uids.initiator), "mirrorcl:0-memory 409600 firmware 120 firmware");
  for (const int node : {0, 1, 2, 3}) {
    const Uid target = machine->target_of_node(node)->uid;
    EXPECT_EQ(line(*machine, *reach(*machine, uids.initiator, target)),
              line(*machine, *reach(*machine, machine->initiator_of_cpu(0)->uid, target)));
  }
}

// The same after CPU 1, the only one of node 1, went offline: what the firmware says of it holds for no other.
TEST(CapturedMachine, FiguresOfCpusThatAreOfflineHoldForNoOthers) {
  const Topology machine = captured("qemu-tiers-cpu1-offline");
  EXPECT_EQ(machine.initiator_of_cpu(1), nullptr);
  EXPECT_EQ(best_of_cpu(machine, 0), (Lines{"node2 409600 firmware 120 firmware", "node0 102400 firmware 90 firmware",
                                            "node1 48762 assumed 189 assumed", "node3 8258 assumed 930 assumed"}));
}

class EveryCapturedMachine : public ::testing::TestWithParam<const char*> {};

TEST_P(EveryCapturedMachine, RoundTripsThroughJson) {
  const Topology machine = captured(GetParam());
  const auto again = from_json(to_json(machine));
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, machine);
}

TEST_P(EveryCapturedMachine, EveryInitiatorReachesEveryTarget) {
  const Topology machine = captured(GetParam());
  for (const Initiator& initiator : machine.initiators()) {
    for (const Target& target : machine.targets()) {
      const auto found = paths(machine, initiator.uid, target.uid);
      ASSERT_TRUE(found) << found.error().message;
      ASSERT_EQ(found->size(), 1u) << initiator.name << " to " << target.name;
      const auto way = reach(machine, initiator.uid, target.uid);
      ASSERT_TRUE(way);
      EXPECT_EQ(found->front().figures.properties.latency()->number, way->latency->number);
    }
  }
}

TEST_P(EveryCapturedMachine, LooksTheSameTwice) {
  EXPECT_EQ(captured(GetParam()), captured(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Testdata, EveryCapturedMachine,
                         ::testing::Values("64intel64-heteromem.xml", "8intel64-4n2t-memattrs.xml",
                                           "96em64t-4n4d3ca2co-pci.xml", "cxlmem+dax.v2.xml", "fakeheteromemtiers",
                                           "fakememinitiators-1np2c+1npp+gi", "memorysidecaches", "qemu-tiers",
                                           "qemu-tiers-cpu1-offline"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
                           return name;
                         });

TEST(ThisMachine, HasWhatTheKernelSays) {
  const auto machine = load("");
  ASSERT_TRUE(machine) << machine.error().message;
  std::ifstream online("/sys/devices/system/cpu/online");
  std::stringstream text;
  text << online.rdbuf();
  const auto cpus = IdSet::parse(text.str());
  ASSERT_TRUE(cpus);
  for (const auto cpu : cpus->members()) {
    const Initiator* initiator = machine->initiator_of_cpu(cpu);
    ASSERT_NE(initiator, nullptr) << cpu;
    EXPECT_FALSE(best(*machine, initiator, {.limit = 1}).empty());
  }
  ASSERT_NE(machine->target_of_node(0), nullptr);
  EXPECT_GT(machine->target_of_node(0)->size, 0u);
}

TEST(Load, SaysWhatIsWrong) {
  const auto message = [](const std::string& path) {
    const auto result = load(path);
    return result ? std::string("no error") : result.error().message;
  };
  EXPECT_EQ(message("/nonexistent"), "cannot read /nonexistent: No such file or directory");
  const std::string folder = ::testing::TempDir() + "hms-load-test-" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  const auto with = [&](const char* name, const std::string& content) {
    const std::string path = folder + "/" + name;
    std::ofstream(path) << content;
    return message(path);
  };
  EXPECT_NE(message(folder).find("lacks sys/devices/system"), std::string::npos);
  EXPECT_NE(with("empty", "\n").find("is empty"), std::string::npos);
  EXPECT_NE(with("x.tar.bz2", "BZh91AY").find("unpack it"), std::string::npos);
  EXPECT_NE(with("bad.xml", "<topology>").find("hwloc cannot load"), std::string::npos);
  EXPECT_NE(with("bad.json", "{\"format\": 1}").find("bad.json: the file: 'format' should be a string"),
            std::string::npos);
  std::filesystem::remove_all(folder);
}

// hwloc reads the XML; what it makes of a damaged file must not upset us.
TEST(Load, SurvivesDamagedXml) {
  std::ifstream file(testdata("8intel64-4n2t-memattrs.xml"));
  std::stringstream text;
  text << file.rdbuf();
  const std::string path = ::testing::TempDir() + "hms-damaged-" + std::to_string(getpid()) + ".xml";
  std::mt19937 random(3);
  int read = 0;
  for (int round = 0; round < 150; ++round) {
    std::ofstream(path) << mutated(text.str(), random);
    const auto machine = load(path);
    if (!machine) continue;
    ++read;
    exercise(*machine);
    const auto again = from_json(to_json(*machine));
    ASSERT_TRUE(again) << again.error().message;
  }
  EXPECT_GT(read, 10);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace mirrorcl::hms
