// SPDX-License-Identifier: Apache-2.0
#include "mirror/host_nodes.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace mirrorcl::mirror {
namespace {

namespace fs = std::filesystem;

// A machine's /sys/devices/system/node.
class MadeUpNodes : public ::testing::Test {
 protected:
  ~MadeUpNodes() override { fs::remove_all(folder_); }
  void write(const std::string& file, const std::string& line) {
    fs::create_directories((folder_ / file).parent_path());
    std::ofstream(folder_ / file) << line << '\n';
  }
  HostNodes nodes_{std::pmr::get_default_resource()};
  fs::path folder_ = ::testing::TempDir() + "host-nodes-test-" + std::to_string(getpid());
};

TEST_F(MadeUpNodes, ThreadsAreOnTheNodesOfTheirCpus) {
  write("has_memory", "0,7");
  write("online", "0,3,7");
  write("node0/cpulist", "");
  write("node3/cpulist", "0-1023");
  write("node7/cpulist", "");
  nodes_.open(folder_.string());
  EXPECT_TRUE(nodes_.several());
  EXPECT_EQ(nodes_.node_of_thread(static_cast<std::uint32_t>(gettid())), 3);
  std::thread([this] { EXPECT_EQ(nodes_.node_of_thread(static_cast<std::uint32_t>(gettid())), 3); }).join();
  EXPECT_EQ(nodes_.node_of_thread(0x3fffffff), kUnknownNode) << "no such thread";
}

TEST_F(MadeUpNodes, CpusThatNobodyListsAreNowhere) {
  write("has_memory", "0-1");
  write("online", "0-1");
  write("node0/cpulist", "2000-2001");
  nodes_.open(folder_.string());
  EXPECT_EQ(nodes_.node_of_thread(static_cast<std::uint32_t>(gettid())), kUnknownNode);
}

TEST_F(MadeUpNodes, OneNodeIsNotAskedAbout) {
  write("has_memory", "0");
  write("online", "0");
  write("node0/cpulist", "0-1023");
  nodes_.open(folder_.string());
  EXPECT_FALSE(nodes_.several());
  EXPECT_EQ(nodes_.node_of_thread(static_cast<std::uint32_t>(gettid())), kUnknownNode);
  EXPECT_EQ(nodes_.node_of(reinterpret_cast<std::uint64_t>(this)), kUnknownNode);
}

TEST_F(MadeUpNodes, NothingIsKnownWithoutSysfs) {
  nodes_.open((folder_ / "missing").string());
  EXPECT_FALSE(nodes_.several());
}

TEST(HostNodes, FindsTheCpuBehindAnyName) {
  const std::string behind =
      " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 ";
  EXPECT_EQ(HostNodes::cpu_in_stat("17 (name)" + behind + "12 0 0"), 12);
  EXPECT_EQ(HostNodes::cpu_in_stat("17 (a) b (c 9)" + behind + "0 0 0\n"), 0);
  EXPECT_EQ(HostNodes::cpu_in_stat("17 (name)" + behind), -1);
  EXPECT_EQ(HostNodes::cpu_in_stat("17 (name) S 1"), -1);
  EXPECT_EQ(HostNodes::cpu_in_stat(""), -1);
}

int policy_of_this_thread() {
  int mode = -1;
  return syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) == 0 ? mode : -1;
}

TEST(OnNode, HoldsWhileItLives) {
  if (policy_of_this_thread() != MPOL_DEFAULT) GTEST_SKIP() << "a policy is set, or may not be asked for";
  {
    const OnNode node(0);
    EXPECT_EQ(policy_of_this_thread(), MPOL_PREFERRED);
  }
  EXPECT_EQ(policy_of_this_thread(), MPOL_DEFAULT);
  {
    const OnNode node(kUnknownNode);
    EXPECT_EQ(policy_of_this_thread(), MPOL_DEFAULT);
  }
}

}  // namespace
}  // namespace mirrorcl::mirror
