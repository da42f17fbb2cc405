// SPDX-License-Identifier: Apache-2.0
// The process's own binder and the C functions, on real memory of this machine.
#include "hms/process.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "hms/hbind.hpp"
#include "hms/placement.h"
#include "hms/query.h"

extern "C" int hbind_from_c(uint32_t target, uint32_t* resident_pages);

namespace mirrorcl::hms {
namespace {

constexpr std::size_t kSize = 64 * 4096;

class ProcessMemory : public testing::Test {
 protected:
  void SetUp() override {
    auto binder = process_binder();
    ASSERT_TRUE(binder.has_value()) << binder.error().message;
    binder_ = *binder;
    for (const Target& target : binder_->topology()->targets()) {
      if (target.online && target.node >= 0 && kernel_host_memory().may_use(target.node)) node_ = target.uid;
    }
    if (node_ == kNoUid) GTEST_SKIP() << "this process may not ask the kernel about NUMA policies";
    void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    memory_ = std::span(static_cast<char*>(memory), kSize);
  }
  void TearDown() override {
    if (memory_.empty()) return;
    hms_unbind(memory_.data(), kSize);
    munmap(memory_.data(), kSize);
  }

  Binder* binder_ = nullptr;
  Uid node_ = kNoUid;
  std::span<char> memory_;
};

TEST_F(ProcessMemory, IsOneBinderForTheWholeProcess) {
  EXPECT_EQ(*process_binder(), binder_);
  AddressRange table = process_policy_memory();
  EXPECT_GT(table.size(), 0U);
  EXPECT_TRUE(table.contains(reinterpret_cast<std::uint64_t>(&binder_->policies())));
}

int g_joined = 0;

TEST_F(ProcessMemory, WhoHasDevicesJoinsOnce) {
  on_process_binder([](Binder& binder) {
    EXPECT_EQ(*process_binder(), &binder);
    ++g_joined;
  });
  EXPECT_EQ(g_joined, 0);
  EXPECT_EQ(*process_binder(), binder_);
  EXPECT_EQ(*process_binder(), binder_);
  EXPECT_EQ(g_joined, 1);
}

TEST_F(ProcessMemory, BindsFromC) {
  std::uint32_t pages = 0;
  EXPECT_EQ(hbind_from_c(node_, &pages), 0);
  EXPECT_EQ(pages, 256U);
}

TEST_F(ProcessMemory, FriendlyFunctionsDoWhatTheyAreCalled) {
  EXPECT_EQ(hms_bind(memory_.data(), kSize, &node_, 1), 0);
  EXPECT_EQ(hms_read_mostly(memory_.data(), kSize, 1), 0);
  EXPECT_EQ(hms_prefer(memory_.data(), kSize, node_), 0);
  Uid cpus = binder_->topology()->initiators().front().uid;
  EXPECT_EQ(hms_accessed_by(memory_.data(), kSize, &cpus, 1), 0);
  PolicyReader reader(binder_->policies());
  auto found = reader.find(reinterpret_cast<std::uint64_t>(memory_.data()));
  EXPECT_EQ(found.range.size(), kSize);
  EXPECT_EQ(found.policy.bind[0], node_);
  EXPECT_EQ(found.policy.preferred, node_);
  EXPECT_EQ(found.policy.accessed_by[0], cpus);
  EXPECT_TRUE(found.policy.read_mostly);
}

TEST_F(ProcessMemory, FriendlyFunctionsFailWithErrno) {
  Uid nobody = kNoUid - 1;
  errno = 0;
  EXPECT_EQ(hms_bind(memory_.data(), kSize, &nobody, 1), -1);
  EXPECT_EQ(errno, ENODEV);
  EXPECT_EQ(hms_bind(memory_.data(), 0, &node_, 1), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(hms_bind(memory_.data(), SIZE_MAX, &node_, 1), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(hms_bind(memory_.data(), kSize, nullptr, 1), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(hms_accessed_by(memory_.data(), kSize, nullptr, 1), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(hms_accessed_by(memory_.data(), kSize, &node_, HBIND_MAX_ATOMS), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(hms_migrate(nullptr, kSize, &node_, 1), -1);
  EXPECT_EQ(errno, EFAULT);
}

TEST_F(ProcessMemory, BindsFromCpp) {
  std::ranges::fill(memory_, 'x');
  EXPECT_TRUE(bind(memory_, {node_}).has_value());
  auto moved = migrate(memory_, {node_});
  ASSERT_TRUE(moved.has_value());
  EXPECT_LE(*moved, kSize / 4096);
  EXPECT_TRUE(prefetch(memory_, node_).has_value());
  EXPECT_TRUE(unbind(memory_).has_value());
  auto refused = bind(memory_, {kNoUid - 1});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error(), std::errc::no_such_device);
}

TEST_F(ProcessMemory, AForkedChildStartsWithoutPolicies) {
  ASSERT_EQ(hms_bind(memory_.data(), kSize, &node_, 1), 0);
  std::atomic<bool> stop{false};
  std::thread busy([&] {  // so that locks are held at some of the forks
    std::vector<char> other(kSize);
    while (!stop) hms_bind(other.data(), kSize, &node_, 1);
    hms_unbind(other.data(), kSize);
  });
  for (int round = 0; round < 20; ++round) {
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(10);
      bool empty = binder_->policies().range_count() == 0;
      bool works = hms_bind(memory_.data(), kSize, &node_, 1) == 0 && binder_->policies().range_count() == 1;
      _exit(empty && works ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  stop = true;
  busy.join();
  EXPECT_GE(binder_->policies().range_count(), 1U);
}

// A device's locks, as its fork handlers take them, and the start of a device that needs them when a fork has them.
std::mutex g_device;
std::atomic<int> g_stage{0};

void hold_device() {
  g_device.lock();
  g_stage = 2;
}
void release_device() {
  g_device.unlock();
}

void start_device(Binder&) {
  g_stage = 1;
  while (g_stage != 2) std::this_thread::yield();
  const std::scoped_lock lock(g_device);
}

// Handlers that were registered later run first: the fork has the device's locks when it comes to the binder's.
[[noreturn]] void fork_while_the_device_starts() {
  alarm(20);
  if (!process_binder()) _exit(2);
  pthread_atfork(hold_device, release_device, release_device);
  on_process_binder(start_device);
  std::thread first([] { (void)process_binder(); });
  while (g_stage != 1) std::this_thread::yield();
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);
    std::vector<char> memory(kSize);
    const Uid node = (*process_binder())->topology()->targets().front().uid;
    _exit(hms_bind(memory.data(), kSize, &node, 1) == 0 ? 0 : 3);
  }
  first.join();
  int status = 0;
  _exit(waitpid(child, &status, 0) == child && status == 0 ? 0 : 4);
}

TEST_F(ProcessMemory, AForkWhileADeviceStartsWaitsForNobody) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) fork_while_the_device_starts();
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "a deadlock: ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(ProcessMemory, ADeviceOfThisProcessHasTheFiguresOfItsNode) {
  auto before = binder_->topology();
  ProcessDevice device{.name = "mirrorcl:7",
                       .memory_size = std::uint64_t{1} << 30,
                       .node = before->target(node_)->node,
                       .memory_cpu_mappable = true,
                       .memory_is_host_memory = true,
                       .native_atomics = true};
  ProcessDeviceUids uids;
  auto after = with_device(*before, device, &uids);
  ASSERT_TRUE(after.has_value()) << after.error().message;
  EXPECT_EQ(before->targets().size() + 1, after->targets().size());
  EXPECT_EQ(after->initiator_of_device("mirrorcl:7")->uid, uids.initiator);
  EXPECT_EQ(after->target_of_device("mirrorcl:7")->uid, uids.target);
  auto own = reach(*after, uids.initiator, uids.target);
  auto host = reach(*after, uids.initiator, node_);
  ASSERT_TRUE(own.has_value());
  ASSERT_TRUE(host.has_value());
  EXPECT_EQ(own->bandwidth, host->bandwidth);
  EXPECT_EQ(own->locality, Locality::kLocal);
  // On one memory, pages move only because this device cannot map the host's.
  PlacementRequester requesters[] = {{before->initiators().front().uid, true}, {uids.initiator, true}};
  auto map = PlacementMap::create(*after, requesters, std::pmr::new_delete_resource());
  ASSERT_TRUE(map.has_value());
  PlacementRequest request;
  request.requester = (*map)->requester(uids.initiator);
  request.home = (*map)->target(node_);
  request.can_map_home = true;
  request.map = map->get();
  EXPECT_EQ(decide(request).action, Action::kMap);
  request.can_map_home = false;
  EXPECT_EQ(decide(request).action, Action::kMove);
  EXPECT_EQ(decide(request).target, (*map)->target(uids.target));
}

TEST_F(ProcessMemory, ADeviceWithoutANodeOrWithATakenNameIsRefused) {
  auto topology = binder_->topology();
  ProcessDeviceUids uids;
  EXPECT_FALSE(with_device(*topology, {.name = "mirrorcl:7", .node = 999}, &uids).has_value());
  std::string taken = topology->targets().front().name;
  EXPECT_FALSE(with_device(*topology, {.name = taken, .node = topology->target(node_)->node}, &uids).has_value());
}

}  // namespace
}  // namespace mirrorcl::hms
