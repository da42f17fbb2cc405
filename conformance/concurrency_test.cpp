// SPDX-License-Identifier: Apache-2.0
// Host threads and running kernels on the same bytes at the same time. OpenCL 3.0 API, section 5.6 (fine-grained SVM
// with atomics) and OpenCL C 3.0, sections 3.3 and 6.15.12: atomics with memory_scope_all_svm_devices order host and
// device. Every wait of a kernel is bounded, so that a broken driver gives a failed test and not a hang.
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

using LiveAtomics = SystemAtomicsTest;
using LiveMemory = SystemMemoryTest;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr seconds kPatience{built_with_sanitizer() ? 60 : 30};

// Spins politely until `condition` or the patience is over.
template <typename Condition>
bool spin_until(Condition condition) {
  auto end = Clock::now() + kPatience;
  while (!condition()) {
    if (Clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

constexpr const char* kAtomicKernels = R"(
#define LIVE memory_order_seq_cst, memory_scope_all_svm_devices
kernel void increment(global atomic_int *counter, int times) {
  for (int i = 0; i < times; ++i) atomic_fetch_add_explicit(counter, 1, LIVE);
}
// Answers odd numbers with the next even one, as long as the host keeps playing.
kernel void pong(global atomic_int *flag, int rounds, ulong patience, global int *played) {
  for (int round = 0; round < rounds; ++round) {
    ulong spins = 0;
    while (atomic_load_explicit(flag, LIVE) != 2 * round + 1)
      if (++spins > patience) return;
    atomic_store_explicit(flag, 2 * round + 2, LIVE);
    *played = round + 1;
  }
}
// Message passing: publishes data[i] = i * 3 with a release store of i + 1.
kernel void produce(global int *data, global atomic_int *published, int count) {
  for (int i = 0; i < count; ++i) {
    data[i] = i * 3;
    atomic_store_explicit(published, i + 1, memory_order_release, memory_scope_all_svm_devices);
  }
}
kernel void consume(global const int *data, global atomic_int *published, int count, ulong patience, global int *wrong) {
  for (int i = 0; i < count; ++i) {
    ulong spins = 0;
    while (atomic_load_explicit(published, memory_order_acquire, memory_scope_all_svm_devices) <= i)
      if (++spins > patience) { *wrong = -1; return; }
    if (data[i] != i * 5) ++*wrong;
  }
})";

constexpr cl_ulong kDevicePatience =
    20'000'000'000;  // loads; minutes, and a failed test ends its host side much earlier

TEST_F(LiveAtomics, HostThreadsAndKernelIncrementOneHeapInteger) {
  Kernel kernel = build(kAtomicKernels, "increment");
  ASSERT_TRUE(kernel);
  auto counter = std::make_unique<std::atomic<int>>(0);
  constexpr int kItems = 64, kTimes = built_with_sanitizer() ? 2'000 : 20'000, kHostThreads = 2;
  Event event = launch(kernel, kItems, reinterpret_cast<int*>(counter.get()), kTimes);
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  std::vector<std::thread> threads;
  for (int t = 0; t < kHostThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kItems * kTimes / 4; ++i) counter->fetch_add(1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  expect_complete(event);
  EXPECT_EQ(counter->load(), kItems * kTimes + kHostThreads * (kItems * kTimes / 4));
}

TEST_F(LiveAtomics, PingPongOverAFlagWithARunningKernel) {
  Kernel kernel = build(kAtomicKernels, "pong");
  ASSERT_TRUE(kernel);
  auto flag = std::make_unique<std::atomic<int>>(0);
  auto played = std::make_unique<int>(0);
  constexpr int kRounds = 2'000;
  Event event = launch(kernel, 1, reinterpret_cast<int*>(flag.get()), int{kRounds}, kDevicePatience, played.get());
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  for (int round = 0; round < kRounds; ++round) {
    flag->store(2 * round + 1);
    ASSERT_TRUE(spin_until([&] { return flag->load() == 2 * round + 2; })) << "no answer in round " << round;
  }
  expect_complete(event);
  EXPECT_EQ(*played, kRounds);
}

TEST_F(LiveAtomics, PingPongOverAFlagOnTheStack) {
  Kernel kernel = build(kAtomicKernels, "pong");
  ASSERT_TRUE(kernel);
  std::atomic<int> flag{0};
  int played = 0;
  constexpr int kRounds = 200;
  Event event = launch(kernel, 1, reinterpret_cast<int*>(&flag), int{kRounds}, kDevicePatience, &played);
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  for (int round = 0; round < kRounds; ++round) {
    flag.store(2 * round + 1);
    ASSERT_TRUE(spin_until([&] { return flag.load() == 2 * round + 2; })) << "no answer in round " << round;
  }
  expect_complete(event);
  EXPECT_EQ(played, kRounds);
}

TEST_F(LiveAtomics, KernelPublishesAndTheHostReadsWhileItRuns) {
  Kernel kernel = build(kAtomicKernels, "produce");
  ASSERT_TRUE(kernel);
  constexpr int kCount = 100'000;
  std::vector<int> data(kCount, -1);
  auto published = std::make_unique<std::atomic<int>>(0);
  Event event = launch(kernel, 1, data.data(), reinterpret_cast<int*>(published.get()), int{kCount});
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  int wrong = 0;
  for (int i = 0; i < kCount;) {
    int ready = 0;
    ASSERT_TRUE(spin_until([&] { return (ready = published->load(std::memory_order_acquire)) > i; }))
        << "stuck at " << i;
    for (; i < ready; ++i) wrong += data[static_cast<std::size_t>(i)] != i * 3;
  }
  EXPECT_EQ(wrong, 0) << "data was not visible though its publication was";
  expect_complete(event);
}

TEST_F(LiveAtomics, HostPublishesAndTheKernelReadsWhileItRuns) {
  Kernel kernel = build(kAtomicKernels, "consume");
  ASSERT_TRUE(kernel);
  constexpr int kCount = 100'000;
  std::vector<int> data(kCount, -1);
  auto published = std::make_unique<std::atomic<int>>(0);
  auto wrong = std::make_unique<int>(0);
  Event event = launch(kernel, 1, data.data(), reinterpret_cast<int*>(published.get()), int{kCount}, kDevicePatience,
                       wrong.get());
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  for (int i = 0; i < kCount; ++i) {
    data[static_cast<std::size_t>(i)] = i * 5;
    published->store(i + 1, std::memory_order_release);
  }
  expect_complete(event);
  EXPECT_EQ(*wrong, 0);
}

TEST_F(LiveAtomics, CompareAndSwapOf64BitsByBothSides) {
  if (!platform().has_int64_atomics) GTEST_SKIP() << "no cl_khr_int64_base_atomics";
  Kernel kernel = build(R"(
#pragma OPENCL EXTENSION cl_khr_int64_base_atomics : enable
#pragma OPENCL EXTENSION cl_khr_int64_extended_atomics : enable
// Adds `step` by compare-and-swap, so that a torn or lost 64-bit update shows.
kernel void add(global atomic_ulong *word, ulong step, int times) {
  for (int i = 0; i < times; ++i) {
    ulong old = atomic_load_explicit(word, memory_order_seq_cst, memory_scope_all_svm_devices);
    while (!atomic_compare_exchange_strong_explicit(word, &old, old + step, memory_order_seq_cst, memory_order_seq_cst,
                                                    memory_scope_all_svm_devices)) {}
  }
})",
                        "add");
  ASSERT_TRUE(kernel);
  auto word = std::make_unique<std::atomic<cl_ulong>>(0);
  constexpr cl_ulong kStep = 0x1'0000'0001;  // carries through both halves
  constexpr int kItems = 32, kTimes = 5'000;
  Event event = launch(kernel, kItems, reinterpret_cast<cl_ulong*>(word.get()), kStep, int{kTimes});
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  for (int i = 0; i < kItems * kTimes; ++i) {
    cl_ulong old = word->load();
    while (!word->compare_exchange_strong(old, old + kStep)) {
    }
  }
  expect_complete(event);
  EXPECT_EQ(word->load(), kStep * 2 * kItems * kTimes);
}

TEST_F(LiveMemory, BytesOfOneLineWrittenByBothSides) {
  // Fine-grain consistency is at the granularity of bytes (section 5.6): no side may write back a neighbour's byte.
  Kernel kernel = build(R"(
kernel void odd_bytes(global uchar *data, int passes) {
  size_t i = 2 * get_global_id(0) + 1;
  for (int pass = 0; pass < passes; ++pass) data[i] = (uchar)(i * 7 + pass);
})",
                        "odd_bytes");
  ASSERT_TRUE(kernel);
  constexpr std::size_t kBytes = 4 * kPage;
  constexpr int kPasses = 50;
  auto data = std::make_unique<unsigned char[]>(kBytes);
  Event event = launch(kernel, kBytes / 2, data.get(), int{kPasses});
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  auto* bytes = static_cast<volatile unsigned char*>(data.get());
  for (int pass = 0; pass < kPasses; ++pass) {
    for (std::size_t i = 0; i < kBytes; i += 2)
      bytes[i] = static_cast<unsigned char>(i * 5 + static_cast<unsigned>(pass));
  }
  expect_complete(event);
  for (std::size_t i = 0; i < kBytes; ++i) {
    ASSERT_EQ(bytes[i], static_cast<unsigned char>(i * (i % 2 == 0 ? 5 : 7) + kPasses - 1)) << "byte " << i;
  }
}

TEST_F(LiveMemory, TwoThreadsWithAQueueEach) {
  constexpr std::size_t kWords = 20'000;
  constexpr int kRounds = 40;
  auto work = [this](int seed) {
    Queue own = make_queue();
    Kernel kernel = build(kAddIndex, "add_index");
    if (!own || !kernel) return;
    std::vector<int> data(kWords, seed), before(kWords);
    for (int round = 0; round < kRounds; ++round) {
      expect_complete(launch_on(own.get(), kernel, kWords, data.data(), before.data()));
      for (std::size_t i = 0; i < kWords; ++i) {
        int wanted = seed + (round + 1) * static_cast<int>(i);
        if (data[i] != wanted || before[i] != wanted - static_cast<int>(i)) {
          ADD_FAILURE() << "thread " << seed << " round " << round << " word " << i << ": " << data[i] << " and "
                        << before[i];
          return;
        }
      }
    }
    EXPECT_CL(CL_SUCCESS, clFinish(own.get()));
  };
  std::thread other(work, 1000);
  work(2000);
  other.join();
}

TEST_F(LiveMemory, NeighbouringBlocksUsedByHostThreadAndKernel) {
  // A host thread works on its own words between those that the kernels use; page sharing may cost time, never data.
  constexpr std::size_t kWords = 64 * 1024;
  std::vector<int> data(kWords, 0);
  Kernel kernel = build("kernel void odd(global int *data) { data[2 * get_global_id(0) + 1] += 1; }", "odd");
  ASSERT_TRUE(kernel);
  std::atomic<bool> stop{false};
  int passes = 0;
  std::thread host([&] {
    while (!stop.load()) {
      for (std::size_t i = 0; i < kWords; i += 2) ++data[i];
      ++passes;
    }
  });
  constexpr int kLaunches = 30;
  for (int i = 0; i < kLaunches; ++i) run(kernel, kWords / 2, data.data());
  stop = true;
  host.join();
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < kWords; ++i) wrong += data[i] != (i % 2 == 0 ? passes : kLaunches);
  EXPECT_EQ(wrong, 0u);
}

// Allocates, fills, checks and frees blocks of all sizes until told to stop; returns how often contents were wrong.
std::size_t allocation_storm(unsigned seed, const std::atomic<bool>& stop, std::atomic<std::size_t>* rounds) {
  std::minstd_rand random(seed);
  struct Block {
    unsigned char* data = nullptr;
    std::size_t size = 0;
    unsigned char tag = 0;
    bool mapped = false;
  };
  std::vector<Block> blocks(64);
  std::size_t wrong = 0;
  auto release = [&](Block& block) {
    if (block.data == nullptr) return;
    wrong += block.data[0] != block.tag || block.data[block.size - 1] != block.tag ||
             block.data[block.size / 2] != block.tag;
    if (block.mapped) {
      munmap(block.data, block.size);
    } else {
      std::free(block.data);
    }
    block.data = nullptr;
  };
  while (!stop.load()) {
    Block& block = blocks[random() % blocks.size()];
    release(block);
    block.mapped = random() % 4 == 0;
    block.size = block.mapped ? (1 + random() % 64) * kPage : 1 + random() % (random() % 8 == 0 ? 512 * 1024 : 2048);
    block.tag = static_cast<unsigned char>(random());
    if (block.mapped) {
      void* data = mmap(nullptr, block.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      block.data = data == MAP_FAILED ? nullptr : static_cast<unsigned char*>(data);
    } else {
      block.data = static_cast<unsigned char*>(std::malloc(block.size));
    }
    if (block.data == nullptr) continue;
    std::fill(block.data, block.data + block.size, block.tag);
    rounds->fetch_add(1);
  }
  for (Block& block : blocks) release(block);
  return wrong;
}

TEST_F(LiveMemory, AllocationStormsByThreeThreadsWhileKernelsRun) {
  constexpr std::size_t kWords = 32 * 1024;
  Kernel kernel = build(kAddIndex, "add_index");
  ASSERT_TRUE(kernel);
  std::atomic<bool> stop{false};
  std::atomic<std::size_t> rounds{0};
  std::vector<std::size_t> wrong(3, 0);
  std::vector<std::thread> storms;
  for (unsigned t = 0; t < 3; ++t) {
    storms.emplace_back([&, t] { wrong[t] = allocation_storm(t + 1, stop, &rounds); });
  }
  auto end = Clock::now() + seconds(4);
  int launches = 0;
  while (Clock::now() < end && !HasFailure()) {
    // From the same heap, new each time, so that device pages and the storms' blocks are neighbours.
    std::vector<int> data(kWords, launches), before(kWords);
    run(kernel, kWords, data.data(), before.data());
    std::size_t bad = 0;
    for (std::size_t i = 0; i < kWords; ++i) bad += data[i] != launches + static_cast<int>(i) || before[i] != launches;
    EXPECT_EQ(bad, 0u) << "launch " << launches;
    ++launches;
  }
  stop = true;
  for (std::thread& storm : storms) storm.join();
  EXPECT_EQ(wrong, std::vector<std::size_t>(3, 0));
  EXPECT_GT(rounds.load(), 0u);
  EXPECT_GT(launches, 0);
  RecordProperty("launches", launches);
  RecordProperty("allocations", static_cast<int>(rounds.load()));
}

TEST_F(LiveMemory, MemoryUnmappedAndDroppedWhileAnotherKernelRuns) {
  // A long kernel on one queue; meanwhile the host maps, lets the device touch, drops and unmaps other memory on
  // another.
  Kernel slow = build(R"(
kernel void slow(global int *data, int passes) {
  for (int pass = 0; pass < passes; ++pass)
    for (int i = 0; i < 16384; ++i) data[i] += 1;
})",
                      "slow");
  Kernel touch =
      build("kernel void touch(global int *data) { data[get_global_id(0)] = (int)get_global_id(0); }", "touch");
  ASSERT_TRUE(slow);
  ASSERT_TRUE(touch);
  std::vector<int> busy(16384, 0);
  constexpr int kPasses = 20'000;
  Queue other = make_queue();
  Event event = launch(slow, 1, busy.data(), int{kPasses});
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  for (int round = 0; round < 30; ++round) {
    Mapping memory(64 * kPage);
    auto count = memory.size() / sizeof(int);
    expect_complete(launch_on(other.get(), touch, count, memory.as<int>()));
    ASSERT_EQ(memory.as<int>()[count - 1], static_cast<int>(count) - 1);
    expect_complete(launch_on(other.get(), touch, count, memory.as<int>()));
    ASSERT_EQ(madvise(memory.as(), memory.size() / 2, MADV_DONTNEED), 0);
    ASSERT_EQ(memory.as<int>()[1], 0);
    ASSERT_EQ(memory.as<int>()[count - 1], static_cast<int>(count) - 1);
  }
  expect_complete(event);
  for (int word : busy) ASSERT_EQ(word, kPasses);
}

}  // namespace
}  // namespace mirrorcl::conformance
