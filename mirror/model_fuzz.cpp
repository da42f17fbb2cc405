// SPDX-License-Identifier: Apache-2.0
// The model test as a libFuzzer target, on the fake device: a crash, a hang or wrong memory is a finding.
#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "mirror/mirror_fixture.h"
#include "mirror/model_devices.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mirrorcl;
  using namespace mirrorcl::mirror;
  static Mirror* const mirror = [] {
    setenv("MIRRORCL_LOG", "error", 0);  // refused writes are part of the programs
    init_log();
    auto started = Mirror::start();
    if (!started || !(*started)->attach(g_fake_device.emplace())) std::abort();
    return started->release();
  }();
  static FakeModelDevice device(*g_fake_device);
  static Model model(*mirror, device);
  if (!model.run({data, size})) {
    std::fprintf(stderr, "%s\n", model.failure().c_str());
    std::abort();
  }
  return 0;
}
