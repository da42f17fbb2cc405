// SPDX-License-Identifier: Apache-2.0
// The mirror with several CPU devices: kernels in two device processes and this process share its memory.
#include <poll.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "base/log.h"
#include "device/cpu/cpu_device_fixture.h"
#include "mirror/model.h"
#include "mirror/model_test_support.h"

namespace mirrorcl::mirror {
namespace {

using namespace mirrorcl::device;  // the fixture and the test kernels

// Runs lists of accesses as kernels of one device.
class AccessRunner final : public ModelDevice {
 public:
  AccessRunner(CpuDevice& device, Queue* queue, std::uint64_t entry) : device_(device), queue_(queue), entry_(entry) {
    list_ = static_cast<TestAccess*>(device.allocate(kMaxAccesses * sizeof(TestAccess)));
    done_ = static_cast<std::uint64_t*>(device.allocate(sizeof(std::uint64_t)));
    constexpr std::size_t kArguments = 3;
    constexpr std::size_t kOffset = sizeof(ArgumentBlock) + kArguments * sizeof(Argument);
    block_ = static_cast<ArgumentBlock*>(device.allocate(kOffset + kArguments * 8));
    block_->count = kArguments;
    block_->size = kOffset + kArguments * 8;
    for (std::uint32_t i = 0; i < kArguments; ++i) {
      block_->arguments()[i] = {Argument::Kind::kValue, static_cast<std::uint32_t>(kOffset + i * 8), 0};
    }
  }

  // The signal is to be given to finish().
  Signal* start(std::span<const ModelAccess> accesses) {
    for (std::size_t i = 0; i < accesses.size(); ++i) {
      const ModelAccess& access = accesses[i];
      list_[i] = {static_cast<std::uint32_t>(access.kind), access.size, access.address, access.value};
    }
    *done_ = 0;
    const std::uint64_t values[] = {reinterpret_cast<std::uint64_t>(list_), accesses.size(),
                                    reinterpret_cast<std::uint64_t>(done_)};
    std::memcpy(reinterpret_cast<char*>(block_) + block_->arguments()[0].offset, values, sizeof values);
    Signal* signal = *device_.create_signal();
    Packet packet{};
    packet.code = entry_;
    packet.arguments = block_;
    packet.signal = signal;
    for (int d = 0; d < 3; ++d) packet.num_groups[d] = packet.local_size[d] = packet.last_local_size[d] = 1;
    packet.work_dim = 1;
    EXPECT_TRUE(device_.submit(queue_, packet));
    return signal;
  }
  std::size_t finish(Signal* signal, std::span<ModelAccess> accesses, FaultKind* error) {
    const std::int32_t status = wait_patiently(device_, signal);
    *error = status == kStatusComplete ? FaultKind::kNone : signal->error.kind;
    if (status <= 0) device_.destroy_signal(signal);
    const std::size_t made = status == kStatusComplete ? accesses.size() : *done_;
    for (std::size_t i = 0; i < made; ++i) {
      if (list_[i].kind != TestAccess::kWrite) accesses[i].value = list_[i].value;
    }
    return made;
  }
  std::size_t run(std::span<ModelAccess> accesses, FaultKind* error) override {
    return finish(start(accesses), accesses, error);
  }

 private:
  CpuDevice& device_;
  Queue* queue_;
  std::uint64_t entry_;
  TestAccess* list_;
  std::uint64_t* done_;
  ArgumentBlock* block_;
};

class CpuDevicesTest : public CpuDeviceTest {
 protected:
  static constexpr std::size_t kDevices = 2;

  void SetUp() override { ASSERT_NO_FATAL_FAILURE(start_with({})); }
  // memory_size: of each device, in bytes; 0: enough.
  void start_with(const MirrorOptions& options, std::uint64_t memory_size = 0) {
    ASSERT_TRUE(reserve_window().has_value());
    auto started = Mirror::start(options);
    ASSERT_TRUE(started.has_value()) << started.error().message;
    mirror_ = std::move(*started);
    CpuDeviceOptions two_units;
    two_units.compute_units = 2;
    two_units.memory_size = memory_size;
    two_units.private_memory = mirrorcl::options().private_memory;
    ASSERT_NO_FATAL_FAILURE(CpuDeviceTest::start(two_units));
    add(*device_, queue_);
    auto second = CpuDevice::start(two_units);
    ASSERT_TRUE(second) << second.error().message;
    second_ = std::move(*second);
    auto queue = second_->create_queue();
    ASSERT_TRUE(queue);
    add(*second_, *queue);
  }
  void add(CpuDevice& device, Queue* queue) {
    runners_.push_back(std::make_unique<AccessRunner>(device, queue, entry(kernel_accesses)));
    ASSERT_TRUE(mirror_->attach(device).has_value());
  }
  void TearDown() override {
    mirror_.reset();
    CpuDeviceTest::TearDown();
  }

  CpuDevice& device(std::size_t i) { return i == 0 ? *device_ : *second_; }
  // Adds `value` to the first word of each page, in as many launches as it takes; the sum of what was found.
  std::uint64_t add_to_pages(std::size_t on, std::span<std::uint64_t> words, std::uint64_t value) {
    std::uint64_t sum = 0;
    constexpr std::size_t kStride = kPageSize / sizeof(std::uint64_t);
    std::vector<ModelAccess> accesses;
    for (std::size_t i = 0; i < words.size(); i += kStride) {
      accesses.push_back({ModelAccess::Kind::kAdd, 8, reinterpret_cast<std::uint64_t>(&words[i]), value});
      if (accesses.size() < ModelDevice::kMaxAccesses && i + kStride < words.size()) continue;
      FaultKind error = FaultKind::kNone;
      EXPECT_EQ(runners_[on]->run(accesses, &error), accesses.size()) << static_cast<int>(error);
      for (const ModelAccess& access : accesses) sum += access.value;
      accesses.clear();
    }
    return sum;
  }

  std::unique_ptr<Mirror> mirror_;
  std::unique_ptr<CpuDevice> second_;
  std::vector<std::unique_ptr<AccessRunner>> runners_;
};

constexpr std::size_t kBulkWords = 16 * kBlockSize / sizeof(std::uint64_t);
constexpr std::size_t kBulk = 16 * kBlockPages;  // pages, and one where the vector begins within a page

TEST_F(CpuDevicesTest, ResultsOfOneAreTheOthersInputWithoutComingHome) {
  std::vector<std::uint64_t> words(kBulkWords);
  EXPECT_EQ(add_to_pages(0, words, 1), 0U);
  EXPECT_EQ(add_to_pages(1, words, 2), kBulk);
  EXPECT_EQ(mirror_->statistics().pages_to_host, 0U);
  EXPECT_GE(mirror_->statistics().pages_between_devices, kBulk);
  EXPECT_LT(mirror_->statistics().device_faults, kBulk);
  std::uint64_t sum = 0;
  for (std::uint64_t word : words) sum += word;
  EXPECT_EQ(sum, 3 * kBulk);
}

TEST_F(CpuDevicesTest, BothReadWhatOneHas) {
  std::vector<std::uint64_t> words(kBulkWords);
  add_to_pages(0, words, 1);
  auto* sum = shared_array<std::uint64_t>(1);
  for (int round = 0; round < 2; ++round) {
    const std::uint64_t faults = mirror_->statistics().device_faults;
    *sum = 0;
    Signal* signal = *second_->create_signal();
    Queue* queue = *second_->create_queue();
    ASSERT_TRUE(second_->submit(queue, packet(kernel_sum, arguments({words.data(), words.size(), sum}), signal)));
    const auto start = std::chrono::steady_clock::now();
    ASSERT_EQ(second_->wait(signal, kPatience), kStatusComplete);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("%s %.2f GB/s\n", round == 0 ? "read by the other device, copied:" : "read again:",
                static_cast<double>(words.size() * sizeof(std::uint64_t)) / seconds / 1e9);
    EXPECT_EQ(*sum, kBulk);
    *sum = 0;
    ASSERT_EQ(run(kernel_sum, {words.data(), words.size(), sum}), kStatusComplete);
    EXPECT_EQ(*sum, kBulk);
    if (round == 0) continue;
    EXPECT_LT(mirror_->statistics().device_faults - faults, kBulk / 16) << "both have copies";
  }
  EXPECT_EQ(mirror_->statistics().pages_to_host, 0U);
}

TEST_F(CpuDevicesTest, AtomicsOfAllAddUp) {
  constexpr int kRounds = 40;
  auto word = std::make_unique<std::uint64_t>(0);
  std::vector<ModelAccess> additions(ModelDevice::kMaxAccesses,
                                     {ModelAccess::Kind::kAdd, 8, reinterpret_cast<std::uint64_t>(word.get()), 1});
  std::atomic<bool> stop{false};
  std::uint64_t by_cpu = 0;
  std::thread cpu([&] {
    for (; !stop; ++by_cpu) __atomic_fetch_add(word.get(), 1, __ATOMIC_SEQ_CST);
  });
  for (int round = 0; round < kRounds; ++round) {
    Signal* signals[kDevices];
    for (std::size_t i = 0; i < kDevices; ++i) signals[i] = runners_[i]->start(additions);
    for (std::size_t i = 0; i < kDevices; ++i) {
      FaultKind error = FaultKind::kNone;
      std::vector<ModelAccess> results = additions;
      EXPECT_EQ(runners_[i]->finish(signals[i], results, &error), additions.size());
    }
    if (round % 10 == 9) mirror_->bring_home({page_down(reinterpret_cast<std::uint64_t>(word.get())), kPageSize});
  }
  stop = true;
  cpu.join();
  EXPECT_EQ(*word, by_cpu + std::uint64_t{kRounds} * kDevices * additions.size());
  EXPECT_GT(mirror_->statistics().coherent_pages_shared, 0U);
}

TEST_F(CpuDevicesTest, WhatADeadDeviceHadGoesToTheOther) {
  std::vector<std::uint64_t> words(kBulkWords);
  add_to_pages(0, words, 1);
  auto word = std::make_unique<std::uint64_t>(0);
  ModelAccess addition{ModelAccess::Kind::kAdd, 8, reinterpret_cast<std::uint64_t>(word.get()), 1};
  std::uint64_t expected = 0;
  const auto add_by_all = [&] {
    for (std::size_t i = 0; i < kDevices; ++i, ++expected) {
      ModelAccess made = addition;
      FaultKind error = FaultKind::kNone;
      ASSERT_EQ(runners_[i]->run({&made, 1}, &error), 1U);
      EXPECT_EQ(made.value, expected);
    }
    EXPECT_EQ(__atomic_fetch_add(word.get(), 1, __ATOMIC_SEQ_CST), expected++);
  };
  for (int i = 0; i < 5; ++i) ASSERT_NO_FATAL_FAILURE(add_by_all());
  for (std::size_t dies : {std::size_t{0}, std::size_t{1}}) {
    ASSERT_EQ(kill(device(dies).process_id(), SIGKILL), 0);
    for (int i = 0; i < 20'000 && !device(dies).lost(); ++i) usleep(1000);
    ASSERT_TRUE(device(dies).lost());
    EXPECT_EQ(add_to_pages(1 - dies, words, 1), (dies + 1) * kBulk);
    ASSERT_TRUE(device(dies).restart().has_value());
    ASSERT_TRUE(mirror_->attach(device(dies)).has_value());
    for (int i = 0; i < 5; ++i) ASSERT_NO_FATAL_FAILURE(add_by_all());
  }
  EXPECT_LT(mirror_->statistics().pages_to_host, kBulk);
}

// Both and the host add to words of their own in the same pages. One is killed in the middle of a kernel that would
// never end; nothing of what the others added is lost.
TEST_F(CpuDevicesTest, OneDiesWhileTheOtherAndTheHostGoOn) {
  constexpr std::size_t kPages = 64;
  constexpr std::uint64_t kRepeats = 500;
  constexpr std::size_t kStride = kPageSize / sizeof(std::uint32_t);
  constexpr std::size_t kHost = kDevices;  // whose word it is, after the devices'
  std::vector<std::uint32_t> words(kPages * kStride);
  auto* sizes = shared_array<std::uint64_t>(6);  // work-groups along y step through the pages, along z repeat it
  sizes[0] = kStride;
  Queue* queues[] = {queue_, *second_->create_queue()};
  std::atomic<bool> stop{false};
  std::uint32_t by_host = 0;
  std::thread host([&] {
    for (; !stop; ++by_host) {
      for (std::size_t page = 0; page < kPages; ++page)
        __atomic_fetch_add(&words[page * kStride + kHost], 1, __ATOMIC_RELAXED);
    }
  });
  const auto launch_adding = [&](std::size_t on, std::uint64_t repeats) {
    Grid grid;
    grid.groups[1] = kPages;
    grid.groups[2] = repeats;
    grid.dims = 3;
    Signal* signal = *device(on).create_signal();
    EXPECT_TRUE(
        device(on).submit(queues[on], packet(kernel_count_items, arguments({&words[on], sizes}), signal, grid)));
    return signal;
  };
  std::uint64_t completed[kDevices] = {};
  for (std::size_t round = 0; round < 6; ++round) {
    const std::size_t victim = round % kDevices;
    const std::size_t survivor = 1 - victim;
    Signal* endless = launch_adding(victim, 1'000'000'000);
    Signal* running = launch_adding(survivor, kRepeats);
    for (int i = 0; i < 20'000 && endless->load_status() != kStatusRunning; ++i) usleep(1000);
    usleep(static_cast<useconds_t>(1000 * round));
    ASSERT_EQ(kill(device(victim).process_id(), SIGKILL), 0);
    EXPECT_EQ(device(victim).wait(endless, kPatience), kStatusDeviceLost);
    EXPECT_EQ(device(survivor).wait(running, kPatience), kStatusComplete);
    EXPECT_EQ(device(survivor).wait(launch_adding(survivor, kRepeats), kPatience), kStatusComplete);
    completed[survivor] += 2;
    ASSERT_TRUE(device(victim).restart().has_value());
    ASSERT_TRUE(mirror_->attach(device(victim)).has_value());
    if (round % 2 == 1)
      mirror_->bring_home({page_down(reinterpret_cast<std::uint64_t>(words.data())), kPages * kPageSize});
  }
  stop = true;
  host.join();
  for (std::size_t page = 0; page < kPages; ++page) {
    const std::uint32_t* word = &words[page * kStride];
    EXPECT_EQ(word[kHost], by_host) << "page " << page;
    for (std::size_t i = 0; i < kDevices; ++i) EXPECT_GE(word[i], completed[i] * kRepeats) << "page " << page;
  }
}

class CpuDevicesModelTest : public CpuDevicesTest {
 protected:
  void SetUp() override {
    // Refused writes are part of the programs.
    setenv("MIRRORCL_LOG", "error", 0);
    init_log();
  }
  void run_programs(const MirrorOptions& options, std::uint64_t first_seed, std::uint64_t operations,
                    std::uint64_t memory_size = 0) {
    ASSERT_NO_FATAL_FAILURE(start_with(options, memory_size));
    Model model(*mirror_, *runners_[0]);
    for (std::size_t i = 1; i < kDevices; ++i) model.add_device(*runners_[i]);
    run_random_programs(model, first_seed, operations);
    print_statistics(model.operations(), mirror_->statistics());
    EXPECT_GT(mirror_->statistics().pages_between_devices, 0U);
    if (memory_size != 0) {
      EXPECT_GT(mirror_->statistics().evictions, model.operations() / 10'000);
    }
  }
};

TEST_F(CpuDevicesModelTest, DefaultPolicy) {
  run_programs({}, 15'000'000, 200'000);
}

TEST_F(CpuDevicesModelTest, EverythingThatReturnsBecomesCoherent) {
  run_programs(everything_becomes_coherent(), 16'000'000, 100'000);
}

// The programs use four times the memory of each device.
TEST_F(CpuDevicesModelTest, SmallMemory) {
  run_programs({}, 17'000'000, 100'000, kBlockSize);
}

TEST_F(CpuDevicesModelTest, SmallMemoryWhereEverythingThatReturnsBecomesCoherent) {
  run_programs(everything_becomes_coherent(), 18'000'000, 50'000, kBlockSize);
}

}  // namespace
}  // namespace mirrorcl::mirror
