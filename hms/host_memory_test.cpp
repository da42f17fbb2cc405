// SPDX-License-Identifier: Apache-2.0
// hbind() on real memory: what the kernel says afterwards. Works on a machine of one node, where memory moves between
// the node and a device; what needs two nodes is skipped there.
#include "hms/host_memory.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <thread>

#include "base/raw_syscall.h"
#include "hms/binder.h"
#include "hms/id_set.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uint64_t kPage = 4096;

std::vector<std::uint32_t> online_nodes() {
  std::ifstream file("/sys/devices/system/node/online");
  std::string text;
  std::getline(file, text);
  auto nodes = IdSet::parse(text);
  return nodes && !nodes->empty() ? nodes->members() : std::vector<std::uint32_t>{0};
}

// Anonymous memory of whole pages, with nothing mapped behind it.
class Memory {
 public:
  explicit Memory(std::uint64_t pages) : size_(pages * kPage) {
    void* start = mmap(nullptr, size_ + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(start, MAP_FAILED);
    start_ = static_cast<char*>(start);
    madvise(start_, size_, MADV_NOHUGEPAGE);
    munmap(start_ + size_, kPage);
  }
  ~Memory() { munmap(start_, size_); }
  Memory(const Memory&) = delete;

  char* data() const { return start_; }
  AddressRange range(std::uint64_t first = 0, std::uint64_t count = 0) const {
    auto start = reinterpret_cast<std::uint64_t>(start_);
    return {start + first * kPage, count == 0 ? start + size_ : start + (first + count) * kPage};
  }
  void touch(std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t page = first; page < first + count; ++page) start_[page * kPage] = static_cast<char>(page);
  }

 private:
  char* start_;
  std::uint64_t size_;
};

struct KernelPolicy {
  int mode;
  unsigned long nodes;  // a set bit n means: node n, n < 64
};

KernelPolicy kernel_policy(const char* address) {
  KernelPolicy policy{-1, 0};
  unsigned long nodes[16] = {};
  long result = raw_syscall(SYS_get_mempolicy, &policy.mode, nodes, 1025, address, MPOL_F_ADDR);
  EXPECT_EQ(result, 0);
  policy.nodes = nodes[0];
  return policy;
}

bool kernel_has_numa_calls() {
  int mode;
  return raw_syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) == 0;
}

// A device that takes pages by having the application's contents in a buffer of its own and the application's page
// gone, and gives them back.
class StoreDevice final : public DeviceMemory {
 public:
  StoreDevice(Uid target, AddressRange watched)
      : target_(target), start_(watched.start), contents_(watched.size() / kPage), here_(contents_.size(), false) {}

  Uid target() const noexcept override { return target_; }
  std::uint64_t free_bytes() const noexcept override { return contents_.size() * kPage; }
  int move_in(AddressRange range, Untouched) noexcept override {
    for (std::uint64_t page = range.start; page < range.end; page += kPage) {
      auto* memory = reinterpret_cast<char*>(page);
      contents_[index(page)].assign(memory, memory + kPage);
      here_[index(page)] = true;
      madvise(memory, kPage, MADV_DONTNEED);
    }
    return 0;
  }
  int move_out(AddressRange range) noexcept override {
    for (std::uint64_t page = range.start; page < range.end; page += kPage) {
      if (!here_[index(page)]) continue;
      std::ranges::copy(contents_[index(page)], reinterpret_cast<char*>(page));
      here_[index(page)] = false;
    }
    return 0;
  }
  void residency(AddressRange range, std::span<Uid> places) const noexcept override {
    for (std::size_t i = 0; i < places.size(); ++i) {
      if (here_[index(range.start) + i]) places[i] = target_;
    }
  }
  void policy_changed(AddressRange) noexcept override {}

 private:
  std::size_t index(std::uint64_t page) const { return (page - start_) / kPage; }

  Uid target_;
  std::uint64_t start_;
  std::vector<std::vector<char>> contents_;
  std::vector<bool> here_;
};

class RealMemory : public testing::Test {
 protected:
  void SetUp() override {
    if (!kernel_has_numa_calls()) GTEST_SKIP() << "this process may not ask the kernel about NUMA policies";
    auto machine = std::make_shared<Topology>();
    for (std::uint32_t node : nodes_) {
      Target target;
      target.name = "node" + std::to_string(node);
      target.node = static_cast<std::int32_t>(node);
      uids_.push_back(*machine->add(target));
    }
    Target device;
    device.name = "device";
    device.kind = MemoryKind::kDevice;
    device_uid_ = *machine->add(device);
    policies_ = std::move(*PolicyTable::create(std::pmr::new_delete_resource()));
    binder_.emplace(machine, *policies_, kernel_host_memory());
  }

  int call(AddressRange range, std::vector<Uid> targets, std::vector<std::uint32_t>& atoms) {
    hbind_params params{range.start,
                        range.end,
                        static_cast<std::uint32_t>(targets.size()),
                        static_cast<std::uint32_t>(atoms.size()),
                        reinterpret_cast<std::uint64_t>(targets.data()),
                        reinterpret_cast<std::uint64_t>(atoms.data())};
    return binder_->hbind(&params);
  }
  int call(AddressRange range, std::vector<Uid> targets, std::uint32_t command) {
    std::vector<std::uint32_t> atoms{HBIND_ATOM(command, 0)};
    return call(range, std::move(targets), atoms);
  }

  std::vector<std::uint32_t> nodes_ = online_nodes();
  std::vector<Uid> uids_;  // of nodes_
  Uid device_uid_ = kNoUid;
  PolicyTable::Pointer policies_{nullptr, {nullptr}};
  std::optional<Binder> binder_;
};

TEST_F(RealMemory, BindIsAKernelPolicyOfExactlyTheRange) {
  Memory memory(10);
  ASSERT_EQ(call(memory.range(2, 3), {uids_[0]}, HBIND_CMD_BIND), 0);
  for (std::uint64_t page = 0; page < 10; ++page) {
    KernelPolicy policy = kernel_policy(memory.data() + page * kPage);
    bool bound = page >= 2 && page < 5;
    EXPECT_EQ(policy.mode, bound ? MPOL_BIND : MPOL_DEFAULT) << page;
    EXPECT_EQ(policy.nodes, bound ? 1UL << nodes_[0] : 0) << page;
  }
  ASSERT_EQ(call(memory.range(), {}, HBIND_CMD_DEFAULT), 0);
  EXPECT_EQ(kernel_policy(memory.data() + 3 * kPage).mode, MPOL_DEFAULT);
}

TEST_F(RealMemory, PreferredIsAKernelPreference) {
  Memory memory(4);
  ASSERT_EQ(call(memory.range(), {uids_[0]}, HBIND_CMD_PREFERRED), 0);
  EXPECT_EQ(kernel_policy(memory.data()).mode, MPOL_PREFERRED);
  EXPECT_EQ(kernel_policy(memory.data()).nodes, 1UL << nodes_[0]);
}

TEST_F(RealMemory, BindingToADeviceAloneLeavesTheKernelsPolicy) {
  Memory memory(4);
  StoreDevice device(device_uid_, memory.range());
  binder_->add_device(device);
  ASSERT_EQ(call(memory.range(), {device_uid_}, HBIND_CMD_BIND), 0);
  EXPECT_EQ(kernel_policy(memory.data()).mode, MPOL_DEFAULT);
  EXPECT_EQ(policies_->range_count(), 1U);
}

TEST_F(RealMemory, MemoryWithAHoleIsEfault) {
  Memory memory(10);
  munmap(memory.data() + 4 * kPage, kPage);
  EXPECT_EQ(call(memory.range(), {uids_[0]}, HBIND_CMD_BIND), -EFAULT);
  EXPECT_EQ(policies_->range_count(), 0U);
  EXPECT_EQ(call(memory.range(5, 5), {uids_[0]}, HBIND_CMD_BIND), 0);
}

TEST_F(RealMemory, ResidencyIsWhatHasBeenTouched) {
  Memory memory(10'000);
  memory.touch(10, 7);
  memory.touch(9'000, 5);
  std::vector<std::uint32_t> atoms(2 + uids_.size() + 1, 0);
  atoms[0] = HBIND_ATOM(HBIND_CMD_QUERY_RESIDENCY, static_cast<std::uint32_t>(uids_.size() + 2));
  ASSERT_EQ(call(memory.range(), uids_, atoms), 0);
  std::uint32_t touched = 0;
  for (std::size_t i = 1; i <= uids_.size(); ++i) touched += atoms[i];
  EXPECT_EQ(touched, 12U);
  EXPECT_EQ(atoms[1 + uids_.size()], 0U);
  EXPECT_EQ(atoms.back(), 10'000U - 12U);
}

TEST_F(RealMemory, MigratingToWhereItIsMovesNothing) {
  Memory memory(10);
  ASSERT_EQ(call(memory.range(), {uids_[0]}, HBIND_CMD_BIND), 0);
  memory.touch(0, 10);
  std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_MIGRATE, 1), 99};
  ASSERT_EQ(call(memory.range(), {uids_[0]}, atoms), 0);
  EXPECT_EQ(atoms[1], 0U);
}

TEST_F(RealMemory, PagesMoveToADeviceAndBackWithTheirContents) {
  Memory memory(3000);
  memory.touch(0, 2000);
  StoreDevice device(device_uid_, memory.range());
  binder_->add_device(device);
  std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_MIGRATE, 1), 99};
  ASSERT_EQ(call(memory.range(), {device_uid_}, atoms), 0);
  EXPECT_EQ(atoms[1], 2000U);
  std::vector<Uid> places(3000);
  ASSERT_EQ(binder_->residency(memory.range(), places), 0);
  EXPECT_EQ(std::ranges::count(places, device_uid_), 2000);
  ASSERT_EQ(call(memory.range(), {uids_[0]}, atoms), 0);
  EXPECT_EQ(atoms[1], 2000U);
  for (std::uint64_t page = 0; page < 2000; ++page) {
    ASSERT_EQ(memory.data()[page * kPage], static_cast<char>(page)) << page;
  }
}

TEST_F(RealMemory, PagesMoveBetweenNodes) {
  if (nodes_.size() < 2) GTEST_SKIP() << "one NUMA node";
  Memory memory(100);
  ASSERT_EQ(call(memory.range(), {uids_[0]}, HBIND_CMD_BIND), 0);
  memory.touch(0, 60);
  std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_MIGRATE, 1), 99};
  ASSERT_EQ(call(memory.range(), {uids_[1]}, atoms), 0);
  std::vector<Uid> places(100);
  ASSERT_EQ(binder_->residency(memory.range(), places), 0);
  EXPECT_EQ(std::ranges::count(places, uids_[1]), atoms[1]);
  EXPECT_EQ(atoms[1], 60U);
}

// As a container's filter does.
bool forbid_numa_calls() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_move_pages, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_get_mempolicy, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
  };
  sock_fprog program{sizeof filter / sizeof filter[0], filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// On a machine of one node the page tables tell as well, on Linux 6.7 and later.
TEST_F(RealMemory, AContainerThatForbidsTheCallsIsEperm) {
  if (nodes_[0] != 0) GTEST_SKIP() << "no node 0";
  Memory memory(10);
  memory.touch(0, 5);
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (!forbid_numa_calls()) _exit(1);
    if (call(memory.range(), {uids_[0]}, HBIND_CMD_BIND) != -EPERM) _exit(2);
    if (policies_->range_count() != 0) _exit(3);
    std::vector<Uid> places(10);
    const int error = binder_->residency(memory.range(), places);
    if (error == -EPERM) _exit(0);
    if (error != 0 || nodes_.size() > 1) _exit(4);
    std::vector<Uid> expected(10, kNoUid);
    std::fill_n(expected.begin(), 5, uids_[0]);
    _exit(places == expected ? 0 : 5);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(RealMemory, NodesAreThoseThatTheKernelTells) {
  constexpr std::uint64_t kPages = 4 * 512;
  Memory memory(kPages);
  for (std::uint64_t page = 1; page < 50; page += 2) {
    EXPECT_EQ(*static_cast<volatile char*>(memory.data() + page * kPage), 0);  // the kernel's one page of zeros
  }
  (void)madvise(memory.data(), kPages * kPage, MADV_HUGEPAGE);
  memory.touch(1100, 300);
  (void)madvise(memory.data(), kPages * kPage, MADV_NOHUGEPAGE);
  for (std::uint64_t page = 0; page < 500; page += 4) memory.touch(page, 1);
  std::vector<void*> pages;
  for (std::uint64_t page = 0; page < kPages; ++page) pages.push_back(memory.data() + page * kPage);
  std::vector<int> expected(kPages);
  ASSERT_EQ(syscall(SYS_move_pages, 0, kPages, pages.data(), nullptr, expected.data(), 0), 0);
  for (int& node : expected) node = std::max(node, -1);
  std::vector<int> nodes(kPages, -2);
  ASSERT_EQ(kernel_host_memory().nodes_of(memory.range().start, nodes), 0);
  EXPECT_EQ(nodes, expected);
  EXPECT_GE(nodes[4], 0);
  EXPECT_EQ(nodes[3], -1);
  EXPECT_EQ(nodes[502], -1);
}

TEST_F(RealMemory, UnmappingWhileMigratingIsNoError) {
  std::vector<std::uint32_t> atoms{HBIND_ATOM(HBIND_CMD_MIGRATE, 1), 0};
  for (int round = 0; round < 20; ++round) {
    Memory memory(2000);
    memory.touch(0, 2000);
    std::thread unmapper([&] { munmap(memory.data() + 500 * kPage, 1000 * kPage); });
    int result = call(memory.range(), {uids_[0]}, atoms);
    unmapper.join();
    EXPECT_TRUE(result == 0 || result == -EFAULT) << result;
  }
}

}  // namespace
}  // namespace mirrorcl::hms
