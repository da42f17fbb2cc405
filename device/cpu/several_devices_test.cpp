// SPDX-License-Identifier: Apache-2.0
// Several device processes of one application: what they have in common, and what is each one's own.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "device/cpu/cpu_device_fixture.h"
#include "device/cpu/test_processes.h"

namespace mirrorcl::device {
namespace {

using mirror::Access;
using mirror::Range;

// The fixture's device_ is the first; it holds the kernels' code.
class SeveralDevices : public CpuDeviceTest {
 protected:
  struct Device {
    CpuDevice* device;
    Queue* queue;
  };

  void SetUp() override {
    CpuDeviceOptions options;
    options.compute_units = 2;
    ASSERT_NO_FATAL_FAILURE(start(options));
    devices_.push_back({device_.get(), queue_});
  }

  void add_devices(std::size_t count) {
    CpuDeviceOptions options;
    options.compute_units = 2;
    for (std::size_t i = 0; i < count; ++i) {
      auto started = CpuDevice::start(options);
      ASSERT_TRUE(started) << started.error().message;
      auto queue = (*started)->create_queue();
      ASSERT_TRUE(queue);
      devices_.push_back({started->get(), *queue});
      others_.push_back(std::move(*started));
    }
  }

  // The signal is the caller's.
  Signal* launch_on(std::size_t index, TestKernel* kernel, std::initializer_list<TestArgument> list,
                    const Grid& grid = {}, std::uint32_t flags = 0) {
    auto signal = devices_[index].device->create_signal();
    EXPECT_TRUE(signal);
    Packet p = packet(kernel, arguments(list), *signal, grid);
    p.flags = flags;
    EXPECT_TRUE(devices_[index].device->submit(devices_[index].queue, p));
    return *signal;
  }

  std::int32_t run_on(std::size_t index, TestKernel* kernel, std::initializer_list<TestArgument> list,
                      const Grid& grid = {}) {
    return devices_[index].device->wait(launch_on(index, kernel, list, grid), kPatience);
  }

  static void wait_until_running(const Signal* signal) {
    for (int i = 0; i < 20'000 && signal->load_status() != kStatusRunning; ++i) usleep(1000);
    ASSERT_EQ(signal->load_status(), kStatusRunning);
  }

  void kill_process(std::size_t index) {
    const int pid = devices_[index].device->process_id();
    ASSERT_GT(pid, 1);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    pollfd process{devices_[index].device->lost_fd(), POLLIN, 0};
    ASSERT_EQ(poll(&process, 1, 20'000), 1);
    devices_[index].device->on_lost();
  }

  // kernel_count_items with every item at element 0: groups lie along y, whose size factor is 0.
  static Grid all_at_one_word(std::uint64_t groups) {
    Grid grid;
    grid.groups[1] = groups;
    grid.dims = 2;
    return grid;
  }

  std::vector<Device> devices_;
  std::vector<std::unique_ptr<CpuDevice>> others_;
};

TEST_F(SeveralDevices, AKernelLoadedOnceRunsOnAsManyAsTheWindowHolds) {
  ASSERT_NO_FATAL_FAILURE(add_devices(window::kMaxDevices - 1));
  auto refused = CpuDevice::start({});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotSupported);
  EXPECT_NE(refused.error().message.find("no room"), std::string::npos) << refused.error().message;

  std::set<int> processes;
  auto* counts = shared_array<std::uint32_t>(1);
  auto* sizes = shared_array<std::uint64_t>(6);
  std::vector<Signal*> signals;
  constexpr std::uint64_t kGroups = 5000;
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    EXPECT_TRUE(processes.insert(devices_[i].device->process_id()).second);
    signals.push_back(launch_on(i, kernel_count_items, {counts, sizes}, all_at_one_word(kGroups)));
  }
  for (Signal* signal : signals) EXPECT_EQ(device_->wait(signal, kPatience), kStatusComplete);
  EXPECT_EQ(*counts, kGroups * devices_.size());

  // The place of one that has gone is free again.
  const int gone = others_[1]->process_id();
  others_[1].reset();
  EXPECT_TRUE(is_gone(gone));
  auto next = CpuDevice::start({});
  ASSERT_TRUE(next) << next.error().message;
  others_[1] = std::move(*next);
  auto queue = others_[1]->create_queue();
  ASSERT_TRUE(queue);
  devices_[2] = {others_[1].get(), *queue};
  for (std::size_t i = 0; i < devices_.size(); ++i) EXPECT_EQ(run_on(i, kernel_empty, {}), kStatusComplete) << i;
}

TEST_F(SeveralDevices, WindowMemoryOfOneIsUsableAndFreedThroughAnother) {
  ASSERT_NO_FATAL_FAILURE(add_devices(1));
  void* block = device_->allocate(1000);
  void* code = device_->allocate_code(1000);
  EXPECT_NE(others_[0]->allocate(1000), block);
  EXPECT_NE(others_[0]->allocate_code(1000), code);
  others_[0]->free(block);
  others_[0]->free_code(code);
  EXPECT_EQ(device_->allocate(1000), block);
  EXPECT_EQ(device_->allocate_code(1000), code);
  EXPECT_EQ(device_->firmware_symbol("memset"), others_[0]->firmware_symbol("memset"));
}

TEST_F(SeveralDevices, QueuesAndSignalsAreEachOnesOwn) {
  ASSERT_NO_FATAL_FAILURE(add_devices(1));
  EXPECT_NE(devices_[0].queue, devices_[1].queue);
  auto mine = device_->create_signal();
  auto others = others_[0]->create_signal();
  ASSERT_TRUE(mine && others);
  EXPECT_NE(*mine, *others);
  // Both are busy at once, and one that waits holds up the other's work in no way.
  auto* flags = shared_array<std::uint32_t>(2);
  Signal* first = launch_on(0, kernel_spin, {&flags[0]});
  Signal* second = launch_on(1, kernel_spin, {&flags[1]});
  ASSERT_NO_FATAL_FAILURE(wait_until_running(first));
  std::atomic_ref<std::uint32_t>(flags[1]).store(1);
  EXPECT_EQ(device_->wait(second, kPatience), kStatusComplete);
  EXPECT_EQ(run_on(1, kernel_empty, {}), kStatusComplete);
  EXPECT_EQ(first->load_status(), kStatusRunning);
  std::atomic_ref<std::uint32_t>(flags[0]).store(1);
  EXPECT_EQ(others_[0]->wait(first, kPatience), kStatusComplete);
}

TEST_F(SeveralDevices, ANoticeOfAnyWakesWhoeverWaitsAtAnother) {
  ASSERT_NO_FATAL_FAILURE(add_devices(1));
  const std::uint32_t seen = device_->completions();
  auto* flag = shared_array<std::uint32_t>(1);
  Signal* signal = launch_on(1, kernel_spin, {flag}, {}, Packet::kNotify);
  std::thread host([&] {
    usleep(10'000);
    std::atomic_ref<std::uint32_t>(*flag).store(1);
  });
  while (device_->completions() == seen) device_->wait_completions(seen, kPatience);
  EXPECT_EQ(signal->load_status(), kStatusComplete);
  host.join();
}

TEST_F(SeveralDevices, AFaultAndAFailureConcernOneDevice) {
  static constexpr std::uint64_t kAddress = 0x3200'0000'0000;
  ASSERT_NO_FATAL_FAILURE(add_devices(1));
  auto* out = shared_array<std::uint64_t>(1);
  std::vector<std::uint64_t> page(window::kPageSize / 8, 0x51);
  ASSERT_EQ(others_[0]->copy_in({kAddress, window::kPageSize}, page.data()), 0);
  Signal* reading = launch_on(1, kernel_read, {kAddress, out});
  pollfd watched[2] = {{device_->fault_fd(), POLLIN, 0}, {others_[0]->fault_fd(), POLLIN, 0}};
  ASSERT_EQ(poll(&watched[1], 1, 20'000), 1);
  EXPECT_EQ(poll(&watched[0], 1, 0), 0);
  mirror::DeviceFault fault;
  ASSERT_EQ(others_[0]->next_faults({&fault, 1}), 1);
  EXPECT_EQ(fault.address, kAddress);
  ASSERT_EQ(others_[0]->map({kAddress, window::kPageSize}, Access::kReadWrite), 0);
  EXPECT_EQ(others_[0]->wait(reading, kPatience), kStatusComplete);
  EXPECT_EQ(*out, 0x51U);
  // The first has no such page: memory is each one's own.
  reading = launch_on(0, kernel_read, {kAddress, out});
  ASSERT_EQ(poll(watched, 1, 20'000), 1);
  ASSERT_EQ(device_->next_faults({&fault, 1}), 1);
  ASSERT_EQ(device_->fail(fault, FaultKind::kInvalidAddress), 0);
  EXPECT_EQ(device_->wait(reading, kPatience), kStatusKernelFailed);
  EXPECT_EQ(reading->error.address, kAddress);

  EXPECT_EQ(run_on(0, kernel_trap, {}), kStatusKernelFailed);
  EXPECT_EQ(run_on(1, kernel_empty, {}), kStatusComplete);
  EXPECT_EQ(run_on(0, kernel_empty, {}), kStatusComplete);
}

TEST_F(SeveralDevices, OneDiesAndComesBackWhileTheOtherGoesOn) {
  ASSERT_NO_FATAL_FAILURE(add_devices(1));
  for (std::size_t victim : {0U, 1U}) {
    const std::size_t survivor = 1 - victim;
    auto* flag = shared_array<std::uint32_t>(1);
    auto* never = shared_array<std::uint32_t>(1);
    Signal* lost = launch_on(victim, kernel_spin, {never});
    Signal* running = launch_on(survivor, kernel_spin, {flag});
    ASSERT_NO_FATAL_FAILURE(wait_until_running(lost));
    ASSERT_NO_FATAL_FAILURE(wait_until_running(running));
    const int survivors_process = devices_[survivor].device->process_id();
    ASSERT_NO_FATAL_FAILURE(kill_process(victim));
    EXPECT_EQ(device_->wait(lost, kPatience), kStatusDeviceLost);
    EXPECT_TRUE(devices_[victim].device->lost());
    EXPECT_FALSE(devices_[survivor].device->lost());
    EXPECT_EQ(running->load_status(), kStatusRunning);
    auto restarted = devices_[victim].device->restart();
    ASSERT_TRUE(restarted) << restarted.error().message;
    EXPECT_EQ(run_on(victim, kernel_empty, {}), kStatusComplete);
    std::atomic_ref<std::uint32_t>(*flag).store(1);
    EXPECT_EQ(device_->wait(running, kPatience), kStatusComplete);
    EXPECT_EQ(devices_[survivor].device->process_id(), survivors_process);
  }
}

TEST_F(SeveralDevices, AForkedChildNeitherUsesNorDisturbsThem) {
  ASSERT_NO_FATAL_FAILURE(add_devices(1));
  const int child = fork();
  if (child == 0) {
    bool ok = device_->lost() && others_[0]->lost() && !device_->restart() && !others_[0]->restart();
    device_->free(device_->allocate(64));
    others_[0].reset();
    device_.reset();
    // A child may have devices of its own.
    auto own = CpuDevice::start({});
    ok = ok && own && !(*own)->lost();
    own->reset();
    _exit(ok ? 0 : 1);
  }
  expect_success(child);
  EXPECT_EQ(run_on(0, kernel_empty, {}), kStatusComplete);
  EXPECT_EQ(run_on(1, kernel_empty, {}), kStatusComplete);
}

// Memory of the first device, mapped in the application and shared with all devices.
class SharedDeviceMemory : public SeveralDevices {
 protected:
  static constexpr std::uint64_t kSize = 4 * window::kMiB;

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(SeveralDevices::SetUp());
    ASSERT_NO_FATAL_FAILURE(add_devices(2));
    void* reserved = mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(reserved, MAP_FAILED);
    memory_ = static_cast<std::uint64_t*>(reserved);
    ASSERT_NE(mmap(memory_, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, device_->memory_fd(),
                   static_cast<off_t>(start_of_memory())),
              MAP_FAILED);
    ASSERT_TRUE(device_->share(range()));
    for (auto& other : others_) {
      auto shared = other->share_of(*device_, range());
      ASSERT_TRUE(shared) << shared.error().message;
    }
  }
  void TearDown() override {
    SeveralDevices::TearDown();
    munmap(memory_, kSize);
  }

  std::uint64_t start_of_memory() const { return reinterpret_cast<std::uint64_t>(memory_); }
  Range range() const { return {start_of_memory(), kSize}; }

  std::uint64_t* memory_ = nullptr;
};

TEST_F(SharedDeviceMemory, AtomicsOfHostAndDevicesAddUp) {
  auto* word = reinterpret_cast<std::uint32_t*>(memory_ + 1000);
  auto* sizes = shared_array<std::uint64_t>(6);
  constexpr std::uint64_t kGroups = 20'000;
  std::vector<Signal*> signals;
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    signals.push_back(launch_on(i, kernel_count_items, {word, sizes}, all_at_one_word(kGroups)));
  }
  std::uint64_t mine = 0;
  do {
    std::atomic_ref<std::uint32_t>(*word).fetch_add(1);
    ++mine;
  } while (signals[0]->load_status() > kStatusComplete || signals[1]->load_status() > kStatusComplete);
  for (Signal* signal : signals) EXPECT_EQ(device_->wait(signal, kPatience), kStatusComplete);
  EXPECT_EQ(*word, kGroups * devices_.size() + mine);
}

TEST_F(SharedDeviceMemory, OutlivesTheProcessOfItsOwnerAndOfAnyOther) {
  for (std::size_t victim = 0; victim < devices_.size(); ++victim) {
    ASSERT_NO_FATAL_FAILURE(kill_process(victim));
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      if (i == victim) continue;
      memory_[i] = 0;
      ASSERT_EQ(run_on(i, kernel_write, {&memory_[i], 100 * victim + i}), kStatusComplete);
      EXPECT_EQ(memory_[i], 100 * victim + i);
    }
    auto restarted = devices_[victim].device->restart();
    ASSERT_TRUE(restarted) << restarted.error().message;
    auto* out = shared_array<std::uint64_t>(1);
    memory_[200] = victim;
    ASSERT_EQ(run_on(victim, kernel_read, {&memory_[200], out}), kStatusComplete);
    EXPECT_EQ(*out, victim);
  }
}

TEST_F(SharedDeviceMemory, TakenBackFromOneItFaultsThereAndServesTheOthers) {
  constexpr std::uint64_t kPart = 1 * window::kMiB;
  const Range part{start_of_memory() + kPart, kPart};
  auto* inside = memory_ + kPart / sizeof *memory_;
  ASSERT_EQ(run_on(1, kernel_write, {inside, 7U}), kStatusComplete);
  ASSERT_TRUE(others_[0]->unshare(part));
  Signal* reading = launch_on(1, kernel_read, {inside, shared_array<std::uint64_t>(1)});
  pollfd watched{others_[0]->fault_fd(), POLLIN, 0};
  ASSERT_EQ(poll(&watched, 1, 20'000), 1);
  mirror::DeviceFault fault;
  ASSERT_EQ(others_[0]->next_faults({&fault, 1}), 1);
  EXPECT_EQ(fault.address, part.start);
  ASSERT_EQ(others_[0]->fail(fault, FaultKind::kInvalidAddress), 0);
  EXPECT_EQ(device_->wait(reading, kPatience), kStatusKernelFailed);
  EXPECT_EQ(*inside, 7U);
  ASSERT_EQ(run_on(1, kernel_write, {inside - 1, 8U}), kStatusComplete);
  ASSERT_EQ(run_on(2, kernel_write, {inside, 9U}), kStatusComplete);
  EXPECT_EQ(*inside, 9U);
  ASSERT_TRUE(others_[0]->share_of(*device_, part));
  ASSERT_EQ(run_on(1, kernel_write, {inside, 10U}), kStatusComplete);
  EXPECT_EQ(*inside, 10U);
}

// Where the mapping is replaced there is a moment in which nothing can be there: the kernel must not notice.
TEST_F(SharedDeviceMemory, TakenBackAndGivenAgainUnderARunningKernel) {
  auto* word = reinterpret_cast<std::uint32_t*>(memory_ + 1000);
  auto* sizes = shared_array<std::uint64_t>(6);
  constexpr std::uint64_t kGroups = 300'000;
  const Range page{start_of_memory(), 2 * window::kPageSize};
  Signal* adding = launch_on(1, kernel_count_items, {word, sizes}, all_at_one_word(kGroups));
  int times = 0;
  do {
    ASSERT_TRUE(others_[0]->unshare(page));
    ASSERT_TRUE(others_[0]->share_of(*device_, page));
    ++times;
  } while (adding->load_status() > kStatusComplete);
  EXPECT_EQ(adding->load_status(), kStatusComplete) << fault_kind_name(adding->error.kind) << " after " << times;
  EXPECT_EQ(*word, kGroups);
}

}  // namespace
}  // namespace mirrorcl::device
