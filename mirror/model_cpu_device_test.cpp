// SPDX-License-Identifier: Apache-2.0
// The model test on the CPU device, whose kernels make their accesses in a process of their own; and its concurrent
// form, in which CPU threads and kernels run at once over the same pages, each on words of its own.
#include <atomic>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "base/log.h"
#include "device/cpu/cpu_device_fixture.h"
#include "mirror/model.h"
#include "mirror/model_test_support.h"
#include "mirror/placed_machine.h"

namespace mirrorcl::mirror {
namespace {

using namespace mirrorcl::device;  // the fixture and the test kernels

class CpuModelTest : public CpuDeviceTest, public ModelDevice {
 protected:
  void SetUp() override {
    // Refused writes are part of the programs.
    setenv("MIRRORCL_LOG", "error", 0);
    init_log();
  }
  void TearDown() override {
    mirror_.reset();
    CpuDeviceTest::TearDown();
  }
  // memory_size: of the device, in bytes; 0: enough.
  void start_with(const MirrorOptions& options, std::uint64_t memory_size = 0) {
    ASSERT_TRUE(reserve_window().has_value());
    auto started = Mirror::start(options);
    ASSERT_TRUE(started.has_value()) << started.error().message;
    mirror_ = std::move(*started);
    CpuDeviceOptions device;
    device.memory_size = memory_size;
    ASSERT_NO_FATAL_FAILURE(CpuDeviceTest::start(device));
    ASSERT_TRUE(mirror_->attach(*device_).has_value());
    list_ = shared_array<TestAccess>(kMaxAccesses);
    done_ = shared_array<std::uint64_t>(1);
    block_ = arguments({list_, std::uint64_t{0}, done_});
  }

  std::size_t run(std::span<ModelAccess> accesses, FaultKind* error) override {
    for (std::size_t i = 0; i < accesses.size(); ++i) {
      const ModelAccess& access = accesses[i];
      list_[i] = {static_cast<std::uint32_t>(access.kind), access.size, access.address, access.value};
    }
    *done_ = 0;
    Signal* signal = launch_list(list_, accesses.size(), done_);
    std::int32_t status = wait_patiently(*device_, signal);
    *error = status == kStatusComplete ? FaultKind::kNone : signal->error.kind;
    if (status <= 0) device_->destroy_signal(signal);
    const std::size_t made = status == kStatusComplete ? accesses.size() : *done_;
    for (std::size_t i = 0; i < made; ++i) {
      if (list_[i].kind != TestAccess::kWrite) accesses[i].value = list_[i].value;
    }
    return made;
  }

  // The argument block stays; its count is written anew.
  Signal* launch_list(TestAccess* list, std::size_t count, std::uint64_t* done) {
    std::uint64_t values[3] = {reinterpret_cast<std::uint64_t>(list), count, reinterpret_cast<std::uint64_t>(done)};
    std::memcpy(reinterpret_cast<char*>(block_) + block_->arguments()[0].offset, values, sizeof values);
    Signal* signal = new_signal();
    EXPECT_TRUE(device_->submit(queue_, packet(kernel_accesses, block_, signal)));
    return signal;
  }

  void run_programs(const MirrorOptions& options, std::uint64_t first_seed, std::uint64_t operations,
                    std::uint64_t memory_size = 0) {
    ASSERT_NO_FATAL_FAILURE(start_with(options, memory_size));
    std::optional<PlacedMachine> machine;
    if (PlacedMachine::possible()) machine.emplace(*mirror_, std::vector<DeviceOperations*>{device_.get()});
    Model model(*mirror_, *this);
    if (machine) model.place_by(machine->binder());
    run_random_programs(model, first_seed, operations);
    print_statistics(model.operations(), mirror_->statistics());
    if (memory_size != 0) {
      EXPECT_GT(mirror_->statistics().evictions, model.operations() / 10'000);
    }
  }

  std::unique_ptr<Mirror> mirror_;
  TestAccess* list_ = nullptr;
  std::uint64_t* done_ = nullptr;
  ArgumentBlock* block_ = nullptr;
};

TEST_F(CpuModelTest, DefaultPolicy) {
  run_programs({}, 11'000'000, 3'000'000);
}

TEST_F(CpuModelTest, EverythingThatReturnsBecomesCoherent) {
  run_programs(everything_becomes_coherent(), 12'000'000, 1'500'000);
}

TEST_F(CpuModelTest, WithoutMove) {
  MirrorOptions options;
  options.use_move = false;
  run_programs(options, 13'000'000, 1'000'000);
}

// The programs use four times the device's memory.
TEST_F(CpuModelTest, SmallMemory) {
  run_programs({}, 15'000'000, 300'000, kBlockSize);
}

TEST_F(CpuModelTest, SmallMemoryWhereEverythingThatReturnsBecomesCoherent) {
  run_programs(everything_becomes_coherent(), 16'000'000, 300'000, kBlockSize);
}

// Words of shared pages, each of which belongs to one CPU thread or to the kernels. Every owner knows what its words
// hold, whatever the pages go through meanwhile: all go home from time to time, and the process forks.
class ConcurrentModelTest : public CpuModelTest {
 protected:
  static constexpr std::size_t kPages = 300;
  static constexpr std::size_t kWordsPerPage = kPageSize / sizeof(std::uint64_t);
  static constexpr std::size_t kOwners = 4;  // the kernels, then CPU threads
  static constexpr std::size_t kOwned = kPages * kWordsPerPage / kOwners;

  // Neighbouring words have different owners.
  static std::size_t index_of(std::size_t owner, std::size_t word) { return word * kOwners + owner; }

  std::vector<std::uint64_t> memory_ = std::vector<std::uint64_t>(kPages * kWordsPerPage);
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> wrong_{0};
  std::atomic<std::uint64_t> operations_{0};

  void run_cpu_thread(std::size_t owner) {
    std::mt19937_64 random(owner);
    std::vector<std::uint64_t> expected(kOwned);
    std::uint64_t made = 0;
    while (!stop_) {
      // A few words close together, then elsewhere.
      std::size_t first = random() % kOwned;
      for (std::size_t word = first; word < std::min(first + 40, kOwned); ++word, ++made) {
        std::uint64_t& real = memory_[index_of(owner, word)];
        std::uint64_t value = random();
        std::uint64_t before = value % 3 == 0   ? __atomic_fetch_add(&real, value, __ATOMIC_SEQ_CST)
                               : value % 3 == 1 ? __atomic_exchange_n(&real, value, __ATOMIC_SEQ_CST)
                                                : __atomic_load_n(&real, __ATOMIC_RELAXED);
        if (before != expected[word]) ++wrong_;
        if (value % 3 == 0) expected[word] += value;
        if (value % 3 == 1) expected[word] = value;
      }
    }
    for (std::size_t word = 0; word < kOwned; ++word, ++made) {
      if (memory_[index_of(owner, word)] != expected[word]) ++wrong_;
    }
    operations_ += made;
  }

  // One launch of random accesses to the kernels' words.
  std::uint64_t launch_kernel(std::mt19937_64& random, std::vector<std::uint64_t>& expected) {
    std::vector<ModelAccess> accesses;
    std::vector<std::size_t> words;
    while (accesses.size() + 32 <= kMaxAccesses) {
      std::size_t first = random() % kOwned;
      for (std::size_t word = first; word < std::min(first + 32, kOwned); ++word) {
        std::uint64_t value = random();
        words.push_back(word);
        accesses.push_back({static_cast<ModelAccess::Kind>(value % 3), 8,
                            reinterpret_cast<std::uint64_t>(&memory_[index_of(0, word)]), value});
      }
    }
    std::vector<ModelAccess> results = accesses;
    FaultKind error = FaultKind::kNone;
    EXPECT_EQ(run(results, &error), accesses.size()) << static_cast<int>(error);
    for (std::size_t i = 0; i < accesses.size(); ++i) {
      std::uint64_t& known = expected[words[i]];
      if (accesses[i].kind != ModelAccess::Kind::kWrite && results[i].value != known) ++wrong_;
      if (accesses[i].kind == ModelAccess::Kind::kWrite) known = accesses[i].value;
      if (accesses[i].kind == ModelAccess::Kind::kAdd) known += accesses[i].value;
    }
    return accesses.size();
  }

  void run_concurrently(const MirrorOptions& options) {
    ASSERT_NO_FATAL_FAILURE(start_with(options));
    SeedReporter reporter(100);
    std::vector<std::thread> threads;
    for (std::size_t owner = 1; owner < kOwners; ++owner)
      threads.emplace_back([this, owner] { run_cpu_thread(owner); });
    std::mt19937_64 random(model_option("MIRRORCL_MODEL_SEED", 1));
    std::vector<std::uint64_t> expected(kOwned);
    std::uint64_t made = 0;
    const Range range{page_down(reinterpret_cast<std::uint64_t>(memory_.data())), (kPages + 1) * kPageSize};
    for (int round = 0; round < 300; ++round) {
      reporter.progress(1);
      made += launch_kernel(random, expected);
      if (round % 16 == 15) mirror_->bring_home(range);
      if (round % 60 == 59) {
        pid_t child = fork();
        if (child == 0) _exit(memory_[index_of(0, 0)] == expected[0] ? 0 : 1);
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0);
      }
    }
    for (std::size_t word = 0; word < kOwned; ++word) wrong_ += memory_[index_of(0, word)] != expected[word];
    stop_ = true;
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(wrong_, 0U);
    print_statistics(made + operations_, mirror_->statistics());
  }
};

TEST_F(ConcurrentModelTest, DefaultPolicy) {
  run_concurrently({});
}

TEST_F(ConcurrentModelTest, NothingBecomesCoherent) {
  run_concurrently(nothing_becomes_coherent());
}

TEST_F(ConcurrentModelTest, WithoutMove) {
  MirrorOptions options;
  options.use_move = false;
  run_concurrently(options);
}

}  // namespace
}  // namespace mirrorcl::mirror
