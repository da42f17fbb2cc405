// SPDX-License-Identifier: Apache-2.0
// The model test on the fake device: everything but the device's own timing is deterministic.
#include <optional>
#include <vector>

#include "base/log.h"
#include "mirror/mirror_fixture.h"
#include "mirror/model_devices.h"
#include "mirror/model_test_support.h"
#include "mirror/placed_machine.h"

namespace mirrorcl::mirror {
namespace {

class ModelTest : public MirrorTest {
 protected:
  struct Setup {
    unsigned devices = 1;
    unsigned memory_blocks = 0;  // of each device's memory; 0: enough
    unsigned blocks = 4;         // of the programs' memory
    bool with_places = true;
  };

  void run(const MirrorOptions& options, std::uint64_t first_seed, std::uint64_t operations) {
    run({}, options, first_seed, operations);
  }
  void run(const Setup& setup, const MirrorOptions& options, std::uint64_t first_seed, std::uint64_t operations) {
    // Refused writes are part of the programs.
    setenv("MIRRORCL_LOG", "error", 0);
    init_log();
    ASSERT_NO_FATAL_FAILURE(start(options));
    std::vector<DeviceOperations*> devices{&device_};
    if (setup.devices == 2) {
      devices.push_back(&g_second_fake_device.emplace());
      ASSERT_TRUE(mirror_->attach(*g_second_fake_device));
    }
    if (setup.memory_blocks != 0) {
      device_.limit_memory(setup.memory_blocks * kBlockSize);
      if (setup.devices == 2) g_second_fake_device->limit_memory(setup.memory_blocks * kBlockSize);
    }
    std::optional<PlacedMachine> machine;
    if (setup.with_places && PlacedMachine::possible()) machine.emplace(*mirror_, devices);
    FakeModelDevice device(device_);
    std::optional<FakeModelDevice> other;
    Model model(*mirror_, device, setup.blocks);
    if (setup.devices == 2) model.add_device(other.emplace(*g_second_fake_device));
    if (machine) model.place_by(machine->binder());
    run_random_programs(model, first_seed, operations);
    const Statistics s = statistics();
    print_statistics(model.operations(), s);
    EXPECT_GT(s.pages_to_device, 0U);
    EXPECT_GT(s.pages_to_host, 0U);
    if (setup.devices == 2) {
      EXPECT_GT(s.pages_between_devices, 0U);
    }
    // Many per program, or eviction has hardly been tested.
    if (setup.memory_blocks != 0) {
      EXPECT_GT(s.evictions, model.operations() / 10'000);
      EXPECT_GT(mirror_->statistics(*devices.back()).evictions, 0U);
    }
    machine.reset();
    mirror_.reset();
  }
};

TEST_F(ModelTest, DefaultPolicy) {
  run({}, 1, 2'000'000);
}

TEST_F(ModelTest, EverythingThatReturnsBecomesCoherent) {
  run(everything_becomes_coherent(), 1'000'000, 1'000'000);
}

TEST_F(ModelTest, NothingBecomesCoherent) {
  run(nothing_becomes_coherent(), 2'000'000, 1'000'000);
}

TEST_F(ModelTest, WithoutMove) {
  MirrorOptions options;
  options.use_move = false;
  run(options, 3'000'000, 1'000'000);
}

TEST_F(ModelTest, SinglePagesOnly) {
  MirrorOptions options;
  options.density_percent = 1'000'000;
  run(options, 4'000'000, 500'000);
}

TEST_F(ModelTest, WithoutPolicies) {
  run({.with_places = false}, {}, 14'000'000, 300'000);
}

TEST_F(ModelTest, TwoDevices) {
  run({.devices = 2}, {}, 5'000'000, 200'000);
}

TEST_F(ModelTest, TwoDevicesWhereEverythingThatReturnsBecomesCoherent) {
  run({.devices = 2}, everything_becomes_coherent(), 6'000'000, 200'000);
}

TEST_F(ModelTest, TwoDevicesWhereNothingBecomesCoherent) {
  run({.devices = 2}, nothing_becomes_coherent(), 7'000'000, 200'000);
}

// Evictions against everything else: programs that use four times the memory of each device.

TEST_F(ModelTest, SmallMemory) {
  run({.memory_blocks = 1}, {}, 20'000'000, 200'000);
}

TEST_F(ModelTest, SmallMemoryWhereEverythingThatReturnsBecomesCoherent) {
  run({.memory_blocks = 1}, everything_becomes_coherent(), 21'000'000, 200'000);
}

TEST_F(ModelTest, SmallMemoryWhereNothingBecomesCoherent) {
  run({.memory_blocks = 1}, nothing_becomes_coherent(), 22'000'000, 200'000);
}

TEST_F(ModelTest, SmallMemoryWithoutMove) {
  MirrorOptions options;
  options.use_move = false;
  run({.memory_blocks = 1}, options, 23'000'000, 200'000);
}

TEST_F(ModelTest, SmallMemoryOfManyBlocks) {
  run({.memory_blocks = 2, .blocks = 16}, {}, 24'000'000, 200'000);
}

TEST_F(ModelTest, TwoDevicesWithSmallMemory) {
  run({.devices = 2, .memory_blocks = 1}, {}, 25'000'000, 200'000);
}

TEST_F(ModelTest, TwoDevicesWithSmallMemoryWhereEverythingThatReturnsBecomesCoherent) {
  run({.devices = 2, .memory_blocks = 1}, everything_becomes_coherent(), 26'000'000, 200'000);
}

TEST_F(ModelTest, TwoDevicesWithSmallMemoryOfManyBlocks) {
  run({.devices = 2, .memory_blocks = 2, .blocks = 16}, {}, 27'000'000, 200'000);
}

TEST_F(ModelTest, ProgramsAreTheSameForTheSameSeed) {
  EXPECT_EQ(random_program(7, 100), random_program(7, 100));
  EXPECT_NE(random_program(7, 100), random_program(8, 100));
}

}  // namespace
}  // namespace mirrorcl::mirror
