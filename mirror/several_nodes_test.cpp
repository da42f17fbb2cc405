// SPDX-License-Identifier: Apache-2.0
// On a machine with several NUMA nodes: to which one pages come home. scripts/in-vm -m two-nodes runs it on one
// (docs/virtual-machines.md).
#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <optional>
#include <string>

#include "hms/host_memory.h"
#include "hms/id_set.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

hms::IdSet ids_in(const std::string& file) {
  std::ifstream stream("/sys/devices/system/node/" + file);
  std::string line;
  std::getline(stream, line);
  return hms::IdSet::parse(line).value_or(hms::IdSet{});
}

class SeveralNodesTest : public MirrorTest {
 protected:
  void SetUp() override {
    for (const std::uint32_t node : ids_in("has_memory").members()) {
      if (!hms::kernel_host_memory().may_use(static_cast<int>(node))) continue;
      nodes_.push_back(static_cast<int>(node));
      const auto cpus = ids_in("node" + std::to_string(node) + "/cpulist");
      if (!cpus.empty()) cpus_.emplace(static_cast<int>(node), cpus.first());
    }
    if (nodes_.size() < 2) GTEST_SKIP() << "one NUMA node";
    int mode = MPOL_DEFAULT;
    if (syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) != 0 || mode != MPOL_DEFAULT) {
      GTEST_SKIP() << "the process has a policy of its own, or may not ask for it";
    }
    MirrorTest::SetUp();
  }
  // Threads of this test run on `node` from now on. False: none of its CPUs is for this process.
  static bool go_to(std::uint32_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
  }
  static int node_of(const void* address) {
    int node = -2;
    EXPECT_EQ(hms::kernel_host_memory().nodes_of(reinterpret_cast<std::uint64_t>(address), {&node, 1}), 0);
    return node;
  }
  // A node other than `node`.
  int other_than(int node) const { return nodes_[0] == node ? nodes_[1] : nodes_[0]; }
  static void bind(const TestMemory& memory, int node) {
    const auto start = reinterpret_cast<std::uint64_t>(memory.data());
    const hms::HostPolicy policy{hms::HostPolicy::Mode::kBind, {&node, 1}};
    ASSERT_EQ(hms::kernel_host_memory().set_policy({start, start + memory.size()}, policy), 0);
  }

  std::vector<int> nodes_;
  std::map<int, std::uint32_t> cpus_;  // the first of each node that has any
};

TEST_F(SeveralNodesTest, PagesComeHomeToWhoTouchesThem) {
  if (cpus_.size() < 2) GTEST_SKIP() << "CPUs on one node only";
  TestMemory memory(64);
  const auto [here, cpu_here] = *cpus_.begin();
  const auto [there, cpu_there] = *cpus_.rbegin();
  if (!go_to(cpu_here)) GTEST_SKIP() << "no CPU of node " << here;
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = page;
  ASSERT_EQ(node_of(memory.word(0)), here);
  for (std::size_t page = 0; page < 64; page += 3) device_.store(memory.word(page), page + 1);
  if (!go_to(cpu_there)) GTEST_SKIP() << "no CPU of node " << there;
  for (std::size_t page = 0; page < 64; page += 3) {
    ASSERT_EQ(*memory.word(page), page + 1);
    EXPECT_EQ(node_of(memory.word(page)), there) << page;
  }
  EXPECT_EQ(node_of(memory.word(1)), statistics().pages_to_host > 22 ? there : here) << "as its neighbours";
}

TEST_F(SeveralNodesTest, BoundPagesComeHomeToTheirNode) {
  TestMemory memory(16);
  const auto [here, cpu] = *cpus_.begin();
  if (!go_to(cpu)) GTEST_SKIP() << "no CPU of node " << here;
  const int bound = other_than(here);
  bind(memory, bound);
  for (std::size_t page = 0; page < 16; ++page) *memory.word(page) = page;
  ASSERT_EQ(node_of(memory.word(3)), bound);
  device_.store(memory.word(3), std::uint64_t{33});
  device_.store(memory.word(9), std::uint64_t{99});
  EXPECT_EQ(*memory.word(3), 33U);
  EXPECT_EQ(node_of(memory.word(3)), bound);
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  EXPECT_EQ(node_of(memory.word(9)), bound);
}

TEST_F(SeveralNodesTest, PagesThatAreBroughtHomeGoWhereTheyCameFrom) {
  TestMemory memory(16);
  const auto [here, cpu] = *cpus_.begin();
  if (!go_to(cpu)) GTEST_SKIP() << "no CPU of node " << here;
  const int from = other_than(here);
  bind(memory, from);
  for (std::size_t page = 0; page < 16; ++page) *memory.word(page) = page;
  // Without the policy that had them there.
  const auto start = reinterpret_cast<std::uint64_t>(memory.data());
  ASSERT_EQ(hms::kernel_host_memory().set_policy({start, start + memory.size()}, {}), 0);
  device_.store(memory.word(5), std::uint64_t{55});
  ASSERT_EQ(node_of(memory.word(5)), -1) << "away";
  mirror_->bring_home({start, memory.size()});
  EXPECT_EQ(node_of(memory.word(5)), from);
  EXPECT_EQ(*memory.word(5), 55U);
}

// Beside pages that are away the mirror, not the kernel, serves first touches.
TEST_F(SeveralNodesTest, FirstTouchesBesideTheDeviceAreOfWhoeverMakesThem) {
  TestMemory memory(16);
  *memory.word(0) = 1;
  device_.store(memory.word(0), std::uint64_t{2});
  std::size_t page = 8;
  for (const auto& [node, cpu] : cpus_) {
    if (!go_to(cpu)) continue;
    *memory.word(page) = page;
    EXPECT_EQ(node_of(memory.word(page)), node);
    ++page;
  }
  EXPECT_GT(page, 8U);
}

}  // namespace
}  // namespace mirrorcl::mirror
