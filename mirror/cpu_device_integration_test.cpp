// SPDX-License-Identifier: Apache-2.0
// The mirror with the real CPU device: kernels in the device process dereference this process's memory.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <numeric>

#include "base/unique_fd.h"
#include "device/cpu/cpu_device_fixture.h"
#include "mirror/mirror.h"
#include "mirror/page_mask.h"
#include "mirror/test_huge_pages.h"

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

  // The kernel that caused it may be over while the mirror is still making its page coherent. A change of protection
  // just then can be overwritten.
  void finish_service() { mirror_->bring_home({window::kUserSpaceStart, kPageSize}); }

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
  std::atomic<std::uint32_t> mine{0};
  std::thread host([&] {
    while (!done) {
      __atomic_fetch_add(counter.get(), 1, __ATOMIC_RELAXED);
      ++mine;
    }
  });
  while (mine == 0) std::this_thread::yield();
  // Groups lie along y, whose size factor is 0: every item counts in element 0.
  Grid grid;
  grid.groups[1] = kGroups;
  grid.dims = 2;
  signal = launch(kernel_count_items, {counter.get(), sizes}, grid);
  EXPECT_EQ(device_->wait(signal, kPatience), kStatusComplete);
  done = true;
  host.join();
  EXPECT_EQ(*counter, kGroups + mine);
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

TEST_F(MirroredDeviceTest, StridedAccessesTakeOnePageEach) {
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
  std::printf("strided device access: %.1f us\n", each * 1e6);
  // Nothing but what is used, or expected to be used where the walk ends.
  const Statistics counted = mirror_->statistics();
  EXPECT_GE(counted.pages_to_device + counted.pages_zero_filled, kFaults);
  EXPECT_LE(counted.pages_to_device + counted.pages_zero_filled, kFaults + 256);
  EXPECT_GT(counted.pages_brought_ahead, kFaults / 2);
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

// Shared mappings of a file: each 64 pages, of a file without a name.
class MirroredFileTest : public MirroredDeviceTest {
 protected:
  static constexpr std::size_t kSize = 64 * kPageSize;
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(MirroredDeviceTest::SetUp());
    char path[] = "/tmp/mirrorcl-test-XXXXXX";
    file_.reset(mkstemp(path));
    unlink(path);
    ASSERT_EQ(ftruncate(file_.get(), kSize), 0);
    words_ = map(PROT_READ | PROT_WRITE);
  }
  void TearDown() override {
    munmap(words_, kSize);
    MirroredDeviceTest::TearDown();
  }
  std::uint64_t* map(int protection) {
    void* mapped = mmap(nullptr, kSize, protection, MAP_SHARED, file_.get(), 0);
    EXPECT_NE(mapped, MAP_FAILED);
    return static_cast<std::uint64_t*>(mapped);
  }
  void put(std::size_t word, std::uint64_t value) {
    ASSERT_EQ(pwrite(file_.get(), &value, 8, static_cast<off_t>(8 * word)), 8);
  }
  std::uint64_t get(std::size_t word) const {
    std::uint64_t value = 0;
    EXPECT_EQ(pread(file_.get(), &value, 8, static_cast<off_t>(8 * word)), 8);
    return value;
  }

  UniqueFd file_;
  std::uint64_t* words_ = nullptr;
};

TEST_F(MirroredFileTest, KernelsAndSystemCallsSeeOneFile) {
  for (std::uint64_t round = 0; round < 10; ++round) {
    mirror_->drain_events();
    const std::size_t word = 700 * round;
    ASSERT_EQ(run(kernel_write, {words_ + word, round + 100}), kStatusComplete);
    ASSERT_EQ(get(word), round + 100);
    put(word + 1, round + 200);
    ASSERT_EQ(run(kernel_read, {words_ + word + 1, result_}), kStatusComplete);
    ASSERT_EQ(*result_, round + 200);
  }
  EXPECT_EQ(mirror_->statistics().shared_file_mappings, 1U);
}

TEST_F(MirroredFileTest, ARunningKernelSeesPwrite) {
  Signal* signal = launch(kernel_spin, {words_ + 5});
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  put(5, 1);
  EXPECT_EQ(device_->wait(signal, kPatience), kStatusComplete);
}

TEST_F(MirroredFileTest, AtomicsOfBothSidesAddUp) {
  auto* counter = reinterpret_cast<std::uint32_t*>(words_ + 3000);
  auto* sizes = shared_array<std::uint64_t>(6);
  std::fill(sizes, sizes + 3, 0);
  constexpr std::uint32_t kGroups = 100'000;
  Grid grid;  // groups lie along y, whose size factor is 0: every item counts in element 0
  grid.groups[1] = kGroups;
  grid.dims = 2;
  Signal* signal = launch(kernel_count_items, {counter, sizes}, grid);
  std::uint32_t mine = 0;
  do {
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    ++mine;
  } while (device_->wait(signal, 0) > kStatusComplete);
  EXPECT_EQ(device_->wait(signal, kPatience), kStatusComplete);
  EXPECT_EQ(*counter, kGroups + mine);
}

TEST_F(MirroredFileTest, WritesToUnreadPagesOfReadOnlyMappingsAreToldAsSuch) {
  std::uint64_t* read_only = map(PROT_READ);
  ASSERT_EQ(run(kernel_read, {read_only, result_}), kStatusComplete);
  EXPECT_EQ(run(kernel_write, {read_only + 512, std::uint64_t{1}}), kStatusKernelFailed);
  EXPECT_EQ(last_error_.kind, FaultKind::kReadOnly);
  munmap(read_only, kSize);
}

TEST_F(MirroredFileTest, ReadOnlyMappingsStaySo) {
  std::uint64_t* read_only = map(PROT_READ);
  put(9, 99);
  ASSERT_EQ(run(kernel_read, {read_only + 9, result_}), kStatusComplete);
  EXPECT_EQ(*result_, 99U);
  EXPECT_EQ(run(kernel_write, {read_only + 9, std::uint64_t{1}}), kStatusKernelFailed);
  EXPECT_EQ(last_error_.kind, FaultKind::kReadOnly);
  ASSERT_EQ(run(kernel_write, {words_ + 9, std::uint64_t{1}}), kStatusComplete);
  ASSERT_EQ(run(kernel_read, {read_only + 9, result_}), kStatusComplete);
  EXPECT_EQ(*result_, 1U);
  munmap(read_only, kSize);
}

TEST_F(MirroredFileTest, AddressesAreReused) {
  for (std::uint64_t round = 0; round < 30; ++round) {
    put(8, round);
    mirror_->drain_events();
    ASSERT_EQ(run(kernel_read, {words_ + 8, result_}), kStatusComplete);
    ASSERT_EQ(*result_, round);
    // Anonymous memory in its place, and the file again.
    ASSERT_EQ(mmap(words_, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), words_);
    words_[8] = round + 1000;
    mirror_->drain_events();
    ASSERT_EQ(run(kernel_read, {words_ + 8, result_}), kStatusComplete);
    ASSERT_EQ(*result_, round + 1000);
    ASSERT_EQ(run(kernel_write, {words_ + 9, round}), kStatusComplete);
    ASSERT_EQ(words_[9], round);
    ASSERT_EQ(mmap(words_, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_.get(), 0), words_);
  }
  munmap(words_, kSize);
  mirror_->drain_events();
  EXPECT_EQ(run(kernel_read, {words_ + 8, result_}), kStatusKernelFailed);
  EXPECT_EQ(last_error_.kind, FaultKind::kInvalidAddress);
  words_ = map(PROT_READ | PROT_WRITE);
}

TEST_F(MirroredFileTest, AKilledDeviceComesBackToTheFile) {
  ASSERT_EQ(run(kernel_write, {words_, std::uint64_t{4}}), kStatusComplete);
  ASSERT_EQ(kill(device_->process_id(), SIGKILL), 0);
  for (int i = 0; i < 5000 && !device_->lost(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ASSERT_TRUE(device_->restart().has_value());
  ASSERT_TRUE(mirror_->attach(*device_).has_value());
  put(1, 5);
  ASSERT_EQ(run(kernel_sum, {words_, kSize / 8, result_}), kStatusComplete);
  EXPECT_EQ(*result_, 9U);
  EXPECT_EQ(mirror_->statistics().shared_file_mappings, 2U);
}

TEST_F(MirroredDeviceTest, SharedHugePages) {
  HugePagesOnDemand on_demand;
  constexpr std::size_t kBytes = 2 * kBlockSize;
  UniqueFd file(memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
  void* mapped = MAP_FAILED;
  if (file && ftruncate(file.get(), kBytes) == 0) {
    mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  }
  if (mapped == MAP_FAILED) GTEST_SKIP() << "no huge pages can be had: " << std::strerror(errno);
  auto* words = static_cast<std::uint64_t*>(mapped);
  words[1] = 5;
  ASSERT_EQ(run(kernel_read, {words + 1, result_}), kStatusComplete);
  EXPECT_EQ(*result_, 5U);
  ASSERT_EQ(run(kernel_write, {words + kBytes / 8 - 1, std::uint64_t{6}}), kStatusComplete);
  EXPECT_EQ(words[kBytes / 8 - 1], 6U);
  munmap(mapped, kBytes);
  mirror_->drain_events();
  EXPECT_EQ(run(kernel_read, {words + 1, result_}), kStatusKernelFailed);
}

TEST_F(MirroredDeviceTest, ProtectionOfTheApplicationHoldsForKernels) {
  auto* words = static_cast<std::uint64_t*>(
      mmap(nullptr, 16 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (std::uint64_t round = 0; round < 10; ++round) {
    ASSERT_EQ(run(kernel_write, {words + 1024, round}), kStatusComplete);
    finish_service();
    ASSERT_EQ(mprotect(words, 16 * kPageSize, PROT_READ), 0);
    mirror_->drain_events();
    ASSERT_EQ(run(kernel_write, {words + 1024, std::uint64_t{1000}}), kStatusKernelFailed);
    ASSERT_EQ(last_error_.kind, FaultKind::kReadOnly);
    ASSERT_EQ(run(kernel_read, {words + 1024, result_}), kStatusComplete);
    ASSERT_EQ(*result_, round);
    ASSERT_EQ(mprotect(words, 16 * kPageSize, PROT_NONE), 0);
    mirror_->drain_events();
    ASSERT_EQ(run(kernel_read, {words + 1024, result_}), kStatusKernelFailed);
    ASSERT_EQ(last_error_.kind, FaultKind::kInvalidAddress);
    ASSERT_EQ(mprotect(words, 16 * kPageSize, PROT_READ | PROT_WRITE), 0);
    mirror_->drain_events();
    ASSERT_EQ(run(kernel_read, {words + 1024, result_}), kStatusComplete);
    ASSERT_EQ(*result_, round);
    ASSERT_EQ(words[1024], round);
  }
  munmap(words, 16 * kPageSize);
}

}  // namespace
}  // namespace mirrorcl::mirror
