// SPDX-License-Identifier: Apache-2.0
// What tests share that decide what the mirror's system calls answer, or what happens before one of them.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "base/log.h"
#include "mirror/fault_injection.h"
#include "mirror/mirror_fixture.h"
#include "mirror/model_devices.h"
#include "mirror/model_test_support.h"

namespace mirrorcl::mirror {

class FaultInjectionTest : public MirrorTest {
 protected:
  void SetUp() override {
    // What is injected is also logged.
    setenv("MIRRORCL_LOG", "off", 0);
    init_log();
    before_ = injection_counts();
    MirrorTest::SetUp();
  }
  void TearDown() override {
    inject_nothing();
    MirrorTest::TearDown();
  }
  std::uint64_t faults(Injected kind) const {
    return injection_counts().faults[static_cast<unsigned>(kind)] - before_.faults[static_cast<unsigned>(kind)];
  }
  std::uint64_t calls(Injected kind) const {
    return injection_counts().calls[static_cast<unsigned>(kind)] - before_.calls[static_cast<unsigned>(kind)];
  }

  void run_programs(const MirrorOptions& options, std::uint64_t first_seed, std::uint64_t operations,
                    bool two_devices = false) {
    ASSERT_NO_FATAL_FAILURE(start(options));
    FakeModelDevice device(device_);
    FakeModelDevice second(g_second_fake_device.emplace());
    Model model(*mirror_, device);
    if (two_devices) {
      ASSERT_TRUE(mirror_->attach(*g_second_fake_device).has_value());
      model.add_device(second);
    }
    model.tolerate_refusals();
    inject_randomly(20, first_seed);
    run_random_programs(model, first_seed, operations);
    inject_nothing();
    print_statistics(model.operations(), statistics());
    for (Injected kind : {Injected::kCopy, Injected::kRegister, Injected::kRead, Injected::kWrite, Injected::kWait}) {
      EXPECT_GT(faults(kind), 0U) << static_cast<int>(kind);
    }
  }

  InjectionCounts before_{};
};

}  // namespace mirrorcl::mirror
