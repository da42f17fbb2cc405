// SPDX-License-Identifier: Apache-2.0
// The model test on the fake device: everything but the device's own timing is deterministic.
#include "base/log.h"
#include "mirror/mirror_fixture.h"
#include "mirror/model_devices.h"
#include "mirror/model_test_support.h"

namespace mirrorcl::mirror {
namespace {

class ModelTest : public MirrorTest {
 protected:
  void run(const MirrorOptions& options, std::uint64_t first_seed, std::uint64_t operations) {
    // Refused writes are part of the programs.
    setenv("MIRRORCL_LOG", "error", 0);
    init_log();
    ASSERT_NO_FATAL_FAILURE(start(options));
    FakeModelDevice device(device_);
    Model model(*mirror_, device);
    run(model, first_seed, operations);
  }
  void run_on_two_devices(const MirrorOptions& options, std::uint64_t first_seed, std::uint64_t operations) {
    setenv("MIRRORCL_LOG", "error", 0);
    init_log();
    ASSERT_NO_FATAL_FAILURE(start(options));
    FakeDevice& second = g_second_fake_device.emplace();
    ASSERT_TRUE(mirror_->attach(second));
    FakeModelDevice device(device_);
    FakeModelDevice other(second);
    Model model(*mirror_, device);
    model.add_device(other);
    run(model, first_seed, operations);
    EXPECT_GT(statistics().pages_between_devices, 0U);
    mirror_.reset();
  }
  void run(Model& model, std::uint64_t first_seed, std::uint64_t operations) {
    run_random_programs(model, first_seed, operations);
    Statistics s = statistics();
    print_statistics(model.operations(), s);
    EXPECT_GT(s.pages_to_device, 0U);
    EXPECT_GT(s.pages_to_host, 0U);
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

TEST_F(ModelTest, TwoDevices) {
  run_on_two_devices({}, 5'000'000, 200'000);
}

TEST_F(ModelTest, TwoDevicesWhereEverythingThatReturnsBecomesCoherent) {
  run_on_two_devices(everything_becomes_coherent(), 6'000'000, 200'000);
}

TEST_F(ModelTest, TwoDevicesWhereNothingBecomesCoherent) {
  run_on_two_devices(nothing_becomes_coherent(), 7'000'000, 200'000);
}

TEST_F(ModelTest, ProgramsAreTheSameForTheSameSeed) {
  EXPECT_EQ(random_program(7, 100), random_program(7, 100));
  EXPECT_NE(random_program(7, 100), random_program(8, 100));
}

}  // namespace
}  // namespace mirrorcl::mirror
