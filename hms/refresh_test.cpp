// SPDX-License-Identifier: Apache-2.0
// Hot-plug and offlining, on a captured machine whose files are changed as the kernel changes them.
#include "hms/refresh.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "hms/load.h"
#include "hms/process.h"
#include "hms/query.h"
#include "hms/reference_machine.h"

namespace mirrorcl::hms {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

class Refresh : public ::testing::Test {
 protected:
  // Not a copy: links to everything but the folders in which something changes.
  void SetUp() override { shadow(""); }
  void TearDown() override { fs::remove_all(root_); }

  void shadow(const fs::path& folder) const {
    static const std::set<fs::path> kOpen = {"sys",
                                             "sys/devices",
                                             "sys/devices/system",
                                             "sys/devices/system/cpu",
                                             "sys/devices/system/node",
                                             "sys/devices/system/node/node2"};
    fs::create_directory(root_ / folder);
    for (const auto& entry : fs::directory_iterator(fs::path(HMS_TESTDATA) / "fakeheteromemtiers" / folder)) {
      const fs::path name = folder / entry.path().filename();
      if (kOpen.contains(name)) {
        shadow(name);
      } else {
        fs::create_symlink(entry.path(), root_ / name);
      }
    }
  }

  Topology machine() const {
    auto result = load(root_.string());
    EXPECT_TRUE(result) << result.error().message;
    return result ? *std::move(result) : Topology{};
  }
  void write(const std::string& file, const std::string& text) const {
    fs::remove(root_ / file);  // the link, not what it leads to
    std::ofstream(root_ / file) << text << '\n';
  }

  void take_node_8_out() const {
    fs::rename(root_ / "sys/devices/system/node/node8", root_ / "node8");
    write("sys/devices/system/node/online", "0-2,4,6,9");
  }
  void put_node_8_back() const {
    fs::rename(root_ / "node8", root_ / "sys/devices/system/node/node8");
    write("sys/devices/system/node/online", "0-2,4,6,8-9");
  }

  void set_cpus(const std::string& all, const std::string& of_node_2, const std::string& mask_of_node_2) const {
    write("sys/devices/system/cpu/online", all);
    write("sys/devices/system/node/node2/cpulist", of_node_2);
    write("sys/devices/system/node/node2/cpumap", mask_of_node_2);
  }

  fs::path root_ = fs::path(::testing::TempDir()) / ("hms-refresh-" + std::to_string(getpid()));
};

TEST_F(Refresh, NothingNewIsNothingChanged) {
  const Topology before = machine();
  const Refreshed now = refresh(before, machine());
  EXPECT_EQ(now.topology, before);
  EXPECT_TRUE(now.added.empty() && now.removed.empty() && now.changed.empty());
}

TEST_F(Refresh, ANodeGoesAndComesBack) {
  const Topology before = machine();
  take_node_8_out();
  const Refreshed without = refresh(before, machine());
  EXPECT_EQ(without.removed, Names{"node8"});
  EXPECT_TRUE(without.added.empty());
  EXPECT_EQ(without.topology.target_of_node(8), nullptr);
  for (const Target& target : without.topology.targets()) EXPECT_EQ(target.uid, before.find(target.name)->uid);
  for (const Initiator& one : without.topology.initiators()) EXPECT_EQ(one.uid, before.find(one.name)->uid);
  const auto best = best_targets(without.topology, Query{.initiators = {without.topology.find("cpu0-1")->uid}});
  ASSERT_TRUE(best);
  EXPECT_EQ(best->size(), 6u);

  put_node_8_back();
  const Refreshed again = refresh(without.topology, machine());
  EXPECT_EQ(again.added, Names{"node8"});
  EXPECT_TRUE(again.removed.empty());
  // A uid is not given a second time.
  EXPECT_GE(again.topology.target_of_node(8)->uid, before.next_uid());
  EXPECT_EQ(again.topology.target_of_node(4)->uid, before.target_of_node(4)->uid);
}

TEST_F(Refresh, ACpuGoesOffline) {
  const Topology before = machine();
  set_cpus("0-4", "4", "10");
  const Refreshed now = refresh(before, machine());
  const Initiator* left = now.topology.initiator_of_cpu(4);
  ASSERT_NE(left, nullptr);
  EXPECT_EQ(left->cpus.to_string(), "4");
  EXPECT_EQ(left->uid, before.initiator_of_cpu(5)->uid);
  EXPECT_EQ(now.topology.initiator_of_cpu(5), nullptr);
  EXPECT_TRUE(now.added.empty());
  EXPECT_TRUE(now.removed.empty());
  EXPECT_NE(std::find(now.changed.begin(), now.changed.end(), left->name), now.changed.end());
  // The link to its own memory is the same one, though its name is made of the initiator's.
  EXPECT_EQ(now.topology.links().size(), before.links().size());
  EXPECT_EQ(now.topology.next_uid(), before.next_uid());
}

TEST_F(Refresh, FreeSpaceIsNoChange) {
  const Topology before = machine();
  Topology after = machine();
  ASSERT_TRUE(after.set_free(after.target_of_node(0)->uid, 1));
  const Refreshed now = refresh(before, after);
  EXPECT_TRUE(now.changed.empty());
  EXPECT_EQ(now.topology.target_of_node(0)->free, 1u);
}

TEST_F(Refresh, DevicesOfTheProcessKeepTheirUids) {
  ProcessDeviceUids first, second;
  const ProcessDevice device{.name = "mirrorcl:0", .memory_size = 1 << 20, .node = 0, .memory_cpu_mappable = true};
  const auto before = with_device(machine(), device, &first);
  ASSERT_TRUE(before) << before.error().message;
  take_node_8_out();
  const auto fresh = with_device(machine(), device, &second);
  ASSERT_TRUE(fresh);
  const Refreshed now = refresh(*before, *fresh);
  EXPECT_EQ(now.topology.find("mirrorcl:0")->uid, first.initiator);
  EXPECT_EQ(now.topology.target_of_device("mirrorcl:0")->uid, first.target);
}

TEST(RefreshOfAnotherMachine, ReplacesEverything) {
  const Topology reference = reference_machine();
  const Refreshed now = refresh(Topology{}, reference);
  EXPECT_EQ(now.added.size(), reference.targets().size() + reference.initiators().size());
  const Refreshed gone = refresh(reference, Topology{});
  EXPECT_EQ(gone.removed.size(), now.added.size());
  EXPECT_EQ(gone.topology.next_uid(), reference.next_uid());
}

// Takes a CPU and memory of the machine away, and gives them back. Not for machines that somebody uses:
//   HMS_TEST_OFFLINE=1 scripts/in-vm -m tiers -- build/bin/hms_test --gtest_filter='Offlining.*'
class Offlining : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("HMS_TEST_OFFLINE") == nullptr) GTEST_SKIP() << "HMS_TEST_OFFLINE is not set";
    auto machine = load("");
    ASSERT_TRUE(machine) << machine.error().message;
    before_ = std::move(*machine);
  }
  static bool write(const fs::path& file, const char* text) {
    std::ofstream stream(file);
    stream << text;
    stream.close();
    return !stream.fail();
  }
  Refreshed look() const {
    auto machine = load("");
    EXPECT_TRUE(machine) << machine.error().message;
    return refresh(before_, machine ? *machine : Topology{});
  }
  static bool lists(const Names& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  }
  Topology before_;
};

TEST_F(Offlining, OfACpuIsNoticed) {
  const fs::path online = "/sys/devices/system/cpu/cpu1/online";
  ASSERT_TRUE(write(online, "0")) << "CPU 1 cannot be taken offline";
  const Refreshed without = look();
  ASSERT_TRUE(write(online, "1"));
  EXPECT_EQ(without.topology.initiator_of_cpu(1), nullptr);
  EXPECT_FALSE(without.removed.empty() && without.changed.empty());
  const Refreshed again = look();
  EXPECT_TRUE(again.added.empty() && again.removed.empty() && again.changed.empty());
  EXPECT_EQ(again.topology.initiator_of_cpu(1)->uid, before_.initiator_of_cpu(1)->uid);
}

// Blocks of the last node; the kernel keeps some for itself.
TEST_F(Offlining, OfMemoryIsNoticed) {
  const Target& last = before_.targets().back();
  const fs::path folder = "/sys/devices/system/node/node" + std::to_string(last.node);
  std::vector<fs::path> offline;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path state = entry.path() / "state";
    if (entry.path().filename().string().starts_with("memory") && fs::exists(state) && write(state, "offline")) {
      offline.push_back(state);
    }
  }
  ASSERT_FALSE(offline.empty()) << "no memory of " << last.name << " can be taken offline";
  const Refreshed without = look();
  for (const fs::path& state : offline) EXPECT_TRUE(write(state, "online")) << state;
  const Target* left = without.topology.target_of_node(last.node);
  EXPECT_TRUE(left != nullptr ? lists(without.changed, last.name) && left->size < last.size
                              : lists(without.removed, last.name));
  const Refreshed again = look();
  EXPECT_EQ(again.topology.target_of_node(last.node)->uid, last.uid);
  EXPECT_EQ(again.topology.target_of_node(last.node)->size, last.size);
}

TEST(RefreshFreeSpace, OfThisMachine) {
  auto machine = load("");
  ASSERT_TRUE(machine);
  const Uid node = machine->target_of_node(0)->uid;
  ASSERT_TRUE(machine->set_free(node, 1));
  refresh_free_space(*machine);
  EXPECT_GT(machine->target(node)->free.value_or(0), 1u);
}

}  // namespace
}  // namespace mirrorcl::hms
