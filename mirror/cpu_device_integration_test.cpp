// SPDX-License-Identifier: Apache-2.0
// The mirror with the real CPU device: kernels in the device process dereference this process's memory.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <numeric>

#include "device/cpu/cpu_device_fixture.h"
#include "mirror/mirror.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {
namespace {

using namespace mirrorcl::device;  // the fixture and the test kernels

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class MirroredDeviceTest : public CpuDeviceTest {
 protected:
  void SetUp() override {
    ASSERT_TRUE(reserve_window().has_value());
    auto started = Mirror::start();
    ASSERT_TRUE(started.has_value()) << started.error().message;
    mirror_ = std::move(*started);
    ASSERT_NO_FATAL_FAILURE(CpuDeviceTest::SetUp());
    ASSERT_TRUE(mirror_->attach(*device_).has_value());
    result_ = shared_array<std::uint64_t>(8);
  }
  void TearDown() override {
    mirror_.reset();
    CpuDeviceTest::TearDown();
  }

  std::unique_ptr<Mirror> mirror_;
  std::uint64_t* result_ = nullptr;  // in the window
};

TEST_F(MirroredDeviceTest, KernelReadsAndWritesMallocedMemory) {
  auto word = std::make_unique<std::uint64_t>(5);
  ASSERT_EQ(run(kernel_read, {word.get(), result_}), kStatusComplete);
  EXPECT_EQ(*result_, 5U);
  ASSERT_EQ(run(kernel_write, {word.get(), std::uint64_t{6}}), kStatusComplete);
  EXPECT_EQ(*word, 6U);
  Statistics s = mirror_->statistics();
  EXPECT_GE(s.device_faults, 1U);
  EXPECT_GE(s.replays, 1U);
}

TEST_F(MirroredDeviceTest, WildPointerFailsAndTheNextKernelRuns) {
  EXPECT_EQ(run(kernel_read, {std::uint64_t{0x10}, result_}), kStatusKernelFailed);
  EXPECT_EQ(last_error_.kind, FaultKind::kInvalidAddress);
  void* gone = mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(gone, kPageSize);
  EXPECT_EQ(run(kernel_read, {gone, result_}), kStatusKernelFailed);
  EXPECT_EQ(last_error_.kind, FaultKind::kInvalidAddress);
  EXPECT_EQ(last_error_.address, reinterpret_cast<std::uint64_t>(gone));
  EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
}

TEST_F(MirroredDeviceTest, AtomicsOfBothSidesAddUp) {
  auto counter = std::make_unique<std::uint32_t>(0);
  // One work-item per group; sizes and offsets as kernel_count_items wants them, all at the same linear id.
  auto* sizes = shared_array<std::uint64_t>(6);
  std::fill(sizes, sizes + 3, 0);
  constexpr std::uint32_t kGroups = 100'000;
  Signal* signal = nullptr;
  std::atomic<bool> done{false};
  std::uint32_t mine = 0;
  std::thread host([&] {
    while (!done) {
      __atomic_fetch_add(counter.get(), 1, __ATOMIC_RELAXED);
      ++mine;
    }
  });
  // Groups lie along y, whose size factor is 0: every item counts in element 0.
  Grid grid;
  grid.groups[1] = kGroups;
  grid.dims = 2;
  signal = launch(kernel_count_items, {counter.get(), sizes}, grid);
  EXPECT_EQ(device_->wait(signal, kPatience), kStatusComplete);
  done = true;
  host.join();
  EXPECT_EQ(*counter, kGroups + mine);
  EXPECT_GT(mine, 0U);
}

TEST_F(MirroredDeviceTest, RunningKernelSeesTheHostsFlag) {
  for (int round = 0; round < 20; ++round) {
    auto flag = std::make_unique<std::uint32_t>(0);
    Signal* signal = launch(kernel_spin, {flag.get()});
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 5));
    __atomic_store_n(flag.get(), 1, __ATOMIC_RELEASE);
    ASSERT_EQ(device_->wait(signal, kPatience), kStatusComplete);
  }
}

TEST_F(MirroredDeviceTest, KilledDeviceLeavesDataAndComesBack) {
  std::vector<std::uint64_t> data(10000, 3);
  ASSERT_EQ(run(kernel_write, {&data[5000], std::uint64_t{4}}), kStatusComplete);
  auto flag = std::make_unique<std::uint32_t>(0);
  Signal* signal = launch(kernel_spin, {flag.get()});
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_EQ(kill(device_->process_id(), SIGKILL), 0);
  EXPECT_EQ(device_->wait(signal, kPatience), kStatusDeviceLost);
  EXPECT_EQ(std::accumulate(data.begin(), data.end(), std::uint64_t{0}), 30001U);
  for (int i = 0; i < 1000 && !device_->lost(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ASSERT_TRUE(device_->restart().has_value());
  ASSERT_TRUE(mirror_->attach(*device_).has_value());
  ASSERT_EQ(run(kernel_sum, {data.data(), data.size(), result_}), kStatusComplete);
  EXPECT_EQ(*result_, 30001U);
  EXPECT_EQ(mirror_->statistics().device_losses, 1U);
}

TEST_F(MirroredDeviceTest, UnmapAndReuseBesideRunningKernels) {
  for (std::uint64_t round = 0; round < 200; ++round) {
    auto* words =
        static_cast<std::uint64_t*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (std::size_t i = 0; i < (1 << 20) / 8; i += 512) words[i] = round;
    mirror_->drain_events();
    ASSERT_EQ(run(kernel_sum, {words, std::uint64_t{(1 << 20) / 8}, result_}), kStatusComplete);
    ASSERT_EQ(*result_, round * 256) << "round " << round;
    munmap(words, 1 << 20);
  }
}

TEST_F(MirroredDeviceTest, ForkWhileAKernelRuns) {
  auto word = std::make_unique<std::uint64_t>(7);
  auto flag = std::make_unique<std::uint32_t>(0);
  ASSERT_EQ(run(kernel_write, {word.get(), std::uint64_t{8}}), kStatusComplete);
  Signal* signal = launch(kernel_spin, {flag.get()});
  for (int round = 0; round < 5; ++round) {
    pid_t child = fork();
    if (child == 0) _exit(*word == 8 && *flag == 0 ? 0 : 1);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  __atomic_store_n(flag.get(), 1, __ATOMIC_RELEASE);
  EXPECT_EQ(device_->wait(signal, kPatience), kStatusComplete);
  ASSERT_EQ(run(kernel_read, {word.get(), result_}), kStatusComplete);
  EXPECT_EQ(*result_, 8U);
}

TEST_F(MirroredDeviceTest, AllUnitsAndTheHostShareOneArray) {
  constexpr std::uint64_t kItems = std::uint64_t{4} << 20;
  constexpr std::uint64_t kLocal = 64;
  std::vector<std::uint32_t> counts(kItems);
  auto* sizes = shared_array<std::uint64_t>(6);
  sizes[0] = kItems;
  sizes[1] = sizes[2] = 1;
  Grid grid = Grid::of_groups(kItems / kLocal);
  grid.local[0] = kLocal;
  std::atomic<bool> done{false};
  std::uint64_t mine = 0;
  std::thread host([&] {
    for (std::uint64_t i = 0; !done; i = (i * 1103515245 + 12345) % kItems) {
      __atomic_fetch_add(&counts[i], 1, __ATOMIC_RELAXED);
      ++mine;
    }
  });
  for (int round = 0; round < 3; ++round) {
    mirror_->drain_events();
    ASSERT_EQ(run(kernel_count_items, {counts.data(), sizes}, grid), kStatusComplete);
  }
  done = true;
  host.join();
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}), 3 * kItems + mine);
}

TEST_F(MirroredDeviceTest, AllocationStormBesideKernels) {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t round = 0; !stop; ++round) {
        std::size_t words = (round % 7 + 1) * 5000 * static_cast<std::size_t>(t + 1);
        auto* block = static_cast<std::uint64_t*>(std::malloc(words * 8));
        for (std::size_t i = 0; i < words; i += 100) block[i] = round;
        for (std::size_t i = 0; i < words; i += 100) wrong += block[i] != round;
        std::free(block);
      }
    });
  }
  for (std::uint64_t round = 0; round < 300; ++round) {
    std::vector<std::uint64_t> data(20000, round);
    mirror_->drain_events();
    ASSERT_EQ(run(kernel_sum, {data.data(), data.size(), result_}), kStatusComplete);
    ASSERT_EQ(*result_, 20000 * round);
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0U);
}

TEST_F(MirroredDeviceTest, IsolatedFaultsTakeOnePageEach) {
  constexpr std::size_t kFaults = 1024;
  constexpr std::size_t kStride = 128 * kPageSize;
  auto* memory = static_cast<char*>(
      mmap(nullptr, kFaults * kStride, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  madvise(memory, kFaults * kStride, MADV_NOHUGEPAGE);
  for (std::size_t i = 0; i < kFaults; ++i) memory[i * kStride] = 1;
  auto* sizes = shared_array<std::uint64_t>(6);
  sizes[0] = kStride / sizeof(std::uint32_t);
  sizes[1] = 1;
  Grid grid;  // one work-group whose items run one after the other along y
  grid.local[1] = kFaults;
  grid.dims = 2;
  auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(run(kernel_count_items, {memory, sizes}, grid), kStatusComplete);
  double each = seconds_since(start) / kFaults;
  std::printf("isolated device fault: %.1f us\n", each * 1e6);
  EXPECT_EQ(mirror_->statistics().pages_to_device + mirror_->statistics().pages_zero_filled, kFaults);
  for (std::size_t i = 0; i < kFaults; ++i) ASSERT_EQ(memory[i * kStride], 2);
  munmap(memory, kFaults * kStride);
}

TEST_F(MirroredDeviceTest, BulkMigrationKeepsUpWithMemcpy) {
  constexpr std::size_t kBytes = std::size_t{128} << 20;
  auto* source =
      static_cast<std::uint64_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto* fresh =
      static_cast<std::uint64_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  madvise(source, kBytes, MADV_NOHUGEPAGE);
  madvise(fresh, kBytes, MADV_NOHUGEPAGE);
  for (std::size_t i = 0; i < kBytes / 8; ++i) source[i] = i;
  auto start = std::chrono::steady_clock::now();
  std::memcpy(fresh, source, kBytes);
  double copy = seconds_since(start);

  start = std::chrono::steady_clock::now();
  ASSERT_EQ(run(kernel_sum, {source, kBytes / 8, result_}), kStatusComplete);
  double first = seconds_since(start);
  EXPECT_EQ(*result_, (kBytes / 8) * (kBytes / 8 - 1) / 2);
  start = std::chrono::steady_clock::now();
  ASSERT_EQ(run(kernel_sum, {source, kBytes / 8, result_}), kStatusComplete);
  double resident = seconds_since(start);
  start = std::chrono::steady_clock::now();
  std::uint64_t sum = std::accumulate(source, source + kBytes / 8, std::uint64_t{0});
  double back = seconds_since(start);
  EXPECT_EQ(sum, *result_);
  constexpr double kGigabyte = 1e9;
  std::printf(
      "memcpy to fresh memory %.2f GB/s, to the device %.2f, resident sum %.2f, home %.2f; faults %llu + %llu\n",
      kBytes / copy / kGigabyte, kBytes / (first - resident) / kGigabyte, kBytes / resident / kGigabyte,
      kBytes / back / kGigabyte, static_cast<unsigned long long>(mirror_->statistics().device_faults),
      static_cast<unsigned long long>(mirror_->statistics().cpu_faults));
  // A wide margin: this is a test of behaviour, bench/ measures.
  EXPECT_LT(first - resident, 10 * copy);
  munmap(source, kBytes);
  munmap(fresh, kBytes);
}

}  // namespace
}  // namespace mirrorcl::mirror
