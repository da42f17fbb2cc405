// SPDX-License-Identifier: Apache-2.0
// Device memory's NUMA node: the last one that there is. A machine with one node shows that the policy holds for every
// page however allocated, not that pages lie elsewhere with it; scripts/in-vm -m two-nodes does.
#include "device/cpu/memory_node.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "device/cpu/cpu_device_fixture.h"

namespace mirrorcl::device {
namespace {

constexpr std::uint64_t kPage = 4096;

struct PolicyOf {
  int mode = -1;
  unsigned long nodes = 0;
};

PolicyOf policy_at(const void* address) {
  PolicyOf policy;
  unsigned long nodes[16] = {};
  if (syscall(SYS_get_mempolicy, &policy.mode, nodes, sizeof nodes * 8, address, MPOL_F_ADDR) != 0) return {};
  policy.nodes = nodes[0];
  return policy;
}

// The node of the page at `address`; negative: an error.
int node_of(void* address) {
  int node = -1;
  return syscall(SYS_move_pages, 0, 1UL, &address, nullptr, &node, 0) == 0 ? node : -1;
}

// The last node with memory, in a list such as "0-1,3"; -1: a kernel without NUMA.
int last_node() {
  std::ifstream file("/sys/devices/system/node/has_memory");
  std::string nodes;
  if (!std::getline(file, nodes) || nodes.empty()) return -1;
  const std::size_t separator = nodes.find_last_of("-,");
  return std::stoi(separator == std::string::npos ? nodes : nodes.substr(separator + 1));
}

class MemoryNodeTest : public CpuDeviceTest {
 protected:
  void SetUp() override {
    CpuDeviceTest::SetUp();
    if (node_ < 0 || node_ >= 64) GTEST_SKIP() << "a kernel without NUMA, or more nodes than this test knows";
    const auto preferred = prefer_node(device_->memory_fd(), window::kDeviceMemoryFileSize, node_);
    ASSERT_TRUE(preferred) << preferred.error().message;
  }

  const int node_ = last_node();
};

TEST_F(MemoryNodeTest, HoldsForTheWholeFile) {
  const std::uint64_t last = window::kDeviceMemoryFileSize - kPage;
  for (std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{1} << 40, std::uint64_t{0x7f12'3456'7000}, last}) {
    void* page = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, device_->memory_fd(), static_cast<off_t>(offset));
    ASSERT_NE(page, MAP_FAILED);
    const PolicyOf policy = policy_at(page);
    EXPECT_EQ(policy.mode, MPOL_PREFERRED) << offset;
    EXPECT_EQ(policy.nodes, 1UL << node_) << offset;
    munmap(page, kPage);
  }
}

TEST_F(MemoryNodeTest, HoldsForPagesHoweverTheyAreAllocated) {
  constexpr std::uint64_t kBase = 0x6000'0000'0000;
  std::vector<char> contents(kPage, 'x');
  // By pwrite, by UFFDIO_COPY, by a fault of the application.
  ASSERT_EQ(device_->copy_in({kBase, kPage}, contents.data()), 0);
  ASSERT_EQ(device_->copy_in_mapped({kBase + kPage, kPage}, contents.data(), mirror::Access::kReadWrite).error, 0);
  auto* pages = static_cast<char*>(
      mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, device_->memory_fd(), static_cast<off_t>(kBase)));
  ASSERT_NE(pages, MAP_FAILED);
  pages[2 * kPage] = 'x';
  for (std::uint64_t page = 0; page < 3; ++page) {
    EXPECT_EQ(pages[page * kPage], 'x');
    EXPECT_EQ(node_of(pages + page * kPage), node_) << page;
    EXPECT_EQ(policy_at(pages + page * kPage).mode, MPOL_PREFERRED) << page;
  }
  munmap(pages, 3 * kPage);
  EXPECT_EQ(device_->unmap({kBase, 3 * kPage}), 0);
}

TEST_F(MemoryNodeTest, TheDeviceProcessSeesIt) {
  std::ifstream maps("/proc/" + std::to_string(device_->process_id()) + "/numa_maps");
  if (!maps) GTEST_SKIP() << "the device process's mappings cannot be read";
  int found = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("mirrorcl-device-memory") == std::string::npos) continue;
    ++found;
    EXPECT_NE(line.find("prefer:" + std::to_string(node_)), std::string::npos) << line;
  }
  EXPECT_GE(found, 2) << "below and above the window";
}

TEST_F(MemoryNodeTest, NodesThatDoNotExistAreRefused) {
  EXPECT_FALSE(prefer_node(device_->memory_fd(), window::kDeviceMemoryFileSize, -1));
  EXPECT_FALSE(prefer_node(device_->memory_fd(), window::kDeviceMemoryFileSize, 1023));
  EXPECT_FALSE(prefer_node(device_->memory_fd(), window::kDeviceMemoryFileSize, 5000));
}

}  // namespace
}  // namespace mirrorcl::device
