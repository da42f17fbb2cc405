// SPDX-License-Identifier: Apache-2.0
// What the tests of the CPU device share: a started device with the test kernels in its code space, a launch in one
// call, and a stand-in for the mirror that answers D's faults.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <concepts>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <thread>
#include <vector>

#include "base/options.h"
#include "base/running_time.h"
#include "device/cpu/cpu_device.h"
#include "device/cpu/test_kernels.h"

extern "C" {
extern const char __start_kernels[];  // NOLINT
extern const char __stop_kernels[];   // NOLINT
}

namespace mirrorcl::device {

// The status of `signal`'s packet after its end, or after 20 s in which this process ran: only a hang takes so long.
inline std::int32_t wait_patiently(CpuDevice& device, Signal* signal) {
  constexpr std::chrono::seconds kPatience{20};
  RunningTime time;
  std::int32_t status;
  do {
    status = device.wait(signal, RunningTime::kLook.count());
  } while (status > kStatusComplete && time.is_within(kPatience));
  return status;
}

// An argument of a launch: a value of 8 bytes, or local memory.
struct TestArgument {
  std::uint64_t value = 0;
  std::uint64_t local = 0;
  template <std::integral T>
  TestArgument(T number) : value(static_cast<std::uint64_t>(number)) {}  // NOLINT(google-explicit-constructor)
  TestArgument(const volatile void* pointer) : value(reinterpret_cast<std::uint64_t>(pointer)) {}  // NOLINT
  static TestArgument local_bytes(std::uint64_t bytes) {
    TestArgument argument(std::uint64_t{0});
    argument.local = bytes;
    return argument;
  }
};

struct Grid {
  std::uint64_t groups[3] = {1, 1, 1};
  std::uint64_t local[3] = {1, 1, 1};
  std::uint64_t last[3] = {0, 0, 0};  // 0: as local
  std::uint64_t offset[3] = {0, 0, 0};
  std::uint32_t dims = 1;
  static Grid of_groups(std::uint64_t count) {
    Grid grid;
    grid.groups[0] = count;
    return grid;
  }
};

class CpuDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(start({})); }

  void start(const CpuDeviceOptions& options) {
    CpuDeviceOptions with_kind = options;
    with_kind.private_memory = options.private_memory || mirrorcl::options().private_memory;
    auto started = start_device(with_kind);
    ASSERT_TRUE(started) << started.error().message;
    device_ = std::move(*started);
    auto queue = device_->create_queue();
    ASSERT_TRUE(queue) << queue.error().message;
    queue_ = *queue;
    const std::size_t size = static_cast<std::size_t>(__stop_kernels - __start_kernels);
    code_ = static_cast<char*>(device_->allocate_code(size));
    ASSERT_NE(code_, nullptr);
    std::memcpy(code_, __start_kernels, size);
    ASSERT_TRUE(device_->make_executable(code_, size));
  }

  void TearDown() override { stop_mirror(); }

  // The kind of device under test.
  virtual Result<std::unique_ptr<CpuDevice>> start_device(const CpuDeviceOptions& options) {
    return CpuDevice::start(options);
  }

  std::uint64_t entry(TestKernel* kernel) const {
    return reinterpret_cast<std::uint64_t>(code_ + (reinterpret_cast<const char*>(kernel) - __start_kernels));
  }

  ArgumentBlock* arguments(std::initializer_list<TestArgument> list) {
    const std::size_t size = sizeof(ArgumentBlock) + list.size() * (sizeof(Argument) + 8);
    auto* block = static_cast<ArgumentBlock*>(device_->allocate(size));
    block->count = static_cast<std::uint32_t>(list.size());
    block->size = static_cast<std::uint32_t>(size);
    std::uint32_t offset = static_cast<std::uint32_t>(sizeof(ArgumentBlock) + list.size() * sizeof(Argument));
    std::size_t i = 0;
    for (const TestArgument& argument : list) {
      std::memcpy(reinterpret_cast<char*>(block) + offset, &argument.value, 8);
      block->arguments()[i] = {argument.local != 0 ? Argument::Kind::kLocal : Argument::Kind::kValue, offset,
                               argument.local};
      offset += 8;
      ++i;
    }
    return block;
  }

  Packet packet(TestKernel* kernel, ArgumentBlock* block, Signal* signal, const Grid& grid = {}) const {
    const auto last = [&grid](int d) { return grid.last[d] != 0 ? grid.last[d] : grid.local[d]; };
    return Packet{.code = entry(kernel),
                  .arguments = block,
                  .printf_buffer = nullptr,
                  .signal = signal,
                  .num_groups = {grid.groups[0], grid.groups[1], grid.groups[2]},
                  .global_offset = {grid.offset[0], grid.offset[1], grid.offset[2]},
                  .local_size = {grid.local[0], grid.local[1], grid.local[2]},
                  .last_local_size = {last(0), last(1), last(2)},
                  .chunk_groups = 0,
                  .chunk_count = 0,
                  .work_dim = grid.dims,
                  .flags = 0,
                  .reserved = 0,
                  .claim = 0,
                  .finished = 0,
                  .failed = 0};
  }

  Signal* new_signal() {
    auto signal = device_->create_signal();
    EXPECT_TRUE(signal);
    return signal ? *signal : nullptr;
  }

  // Submits, and returns the signal of the dispatch, which is the caller's.
  Signal* launch(TestKernel* kernel, std::initializer_list<TestArgument> list, const Grid& grid = {},
                 std::uint32_t flags = 0) {
    Signal* signal = new_signal();
    Packet p = packet(kernel, arguments(list), signal, grid);
    p.flags = flags;
    EXPECT_TRUE(device_->submit(queue_, p));
    return signal;
  }

  std::int32_t run(TestKernel* kernel, std::initializer_list<TestArgument> list, const Grid& grid = {}) {
    Signal* signal = launch(kernel, list, grid);
    last_status_ = wait_patiently(*device_, signal);
    last_error_ = signal->error;
    if (last_status_ <= 0) device_->destroy_signal(signal);
    return last_status_;
  }

  // Waits until the units run `signal`'s packet.
  static void await_running(const Signal* signal) {
    for (int i = 0; i < 10'000 && signal->load_status() != kStatusRunning; ++i) usleep(1000);
    ASSERT_EQ(signal->load_status(), kStatusRunning);
  }

  // Kills the device's process while a thread submits to it without pause, and restarts it: each of the thread's
  // commands completes or fails with the device.
  void die_under_submission() {
    std::atomic<bool> stop{false};
    std::thread submitter([&] {
      while (!stop) {
        Signal* signal = new_signal();
        while (!device_->submit(queue_, packet(kernel_empty, nullptr, signal))) std::this_thread::yield();
        const std::int32_t status = wait_patiently(*device_, signal);
        EXPECT_TRUE(status == kStatusComplete || status == kStatusDeviceLost) << status;
        device_->destroy_signal(signal);
      }
    });
    usleep(3000);
    kill_device();
    while (!device_->lost()) usleep(200);
    EXPECT_TRUE(device_->restart());
    usleep(2000);
    stop = true;
    submitter.join();
  }

  // The process dies when a unit has begun to tell that the packet of the signal's use number `serial` is complete.
  // Returns the signal's status when the device has started again.
  std::int32_t die_while_finishing(Signal* signal, std::uint32_t serial) {
    UnitState& unit = DeviceControl(0).block().units[0];
    for (int i = 0; i < 10'000 && unit.finishing.load() != nullptr; ++i) usleep(1000);
    unit.finishing_serial.store(serial);
    unit.finishing.store(signal);
    kill_device();
    while (!device_->lost()) {
      usleep(200);
      device_->on_lost();
    }
    EXPECT_TRUE(device_->restart());
    return signal->load_status();
  }
  void die_while_signals_are_finished() {
    Signal* unfinished = new_signal();
    unfinished->status.store(static_cast<std::uint32_t>(kStatusRunning));
    EXPECT_EQ(die_while_finishing(unfinished, unfinished->serial), kStatusDeviceLost);
    Signal* finished = new_signal();
    finished->status.store(static_cast<std::uint32_t>(kStatusComplete));
    EXPECT_EQ(die_while_finishing(finished, finished->serial), kStatusComplete);
    // In use for the next packet already.
    const std::uint32_t before = finished->serial;
    device_->renew_signal(finished);
    EXPECT_EQ(die_while_finishing(finished, before), kStatusSubmitted);
    device_->destroy_signal(finished);
    auto again = device_->create_signal();
    ASSERT_TRUE(again);
    ASSERT_EQ(*again, finished);
    EXPECT_EQ(die_while_finishing(*again, before + 1), kStatusSubmitted);
  }
  void kill_device() const {
    const int process = device_->process_id();
    if (process <= 1) std::abort();  // kill() would take it for a group, or for everybody
    EXPECT_EQ(kill(process, SIGKILL), 0);
  }

  // Window memory, zeroed: both sides see it without faults.
  template <typename T>
  T* shared_array(std::size_t count) {
    auto* memory = static_cast<T*>(device_->allocate(count * sizeof(T)));
    EXPECT_NE(memory, nullptr);
    std::memset(static_cast<void*>(memory), 0, count * sizeof(T));
    return memory;
  }

  // Answers each fault with `serve` from a thread of its own, and tells the device of its loss, as the mirror does.
  void start_mirror(std::function<void(const mirror::DeviceFault&)> serve) {
    stopping_ = false;
    mirror_ = std::thread([this, serve = std::move(serve)] {
      bool told = false;
      while (!stopping_) {
        pollfd watched[2] = {{device_->fault_fd(), POLLIN, 0}, {told ? -1 : device_->lost_fd(), POLLIN, 0}};
        if (poll(watched, 2, 5) <= 0) continue;
        mirror::DeviceFault faults[16];
        int count = device_->next_faults(faults);
        for (int i = 0; i < count; ++i) {
          ++faults_;
          serve(faults[i]);
        }
        if ((watched[1].revents & POLLIN) != 0) {
          device_->on_lost();
          told = true;
        }
      }
    });
  }
  void stop_mirror() {
    stopping_ = true;
    if (mirror_.joinable()) mirror_.join();
  }

  static constexpr std::int64_t kPatience = 20'000'000'000;  // ns; only a hang takes so long

  std::unique_ptr<CpuDevice> device_;
  Queue* queue_ = nullptr;
  char* code_ = nullptr;
  std::int32_t last_status_ = 0;
  SignalError last_error_{};
  std::thread mirror_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> faults_{0};
};

}  // namespace mirrorcl::device
