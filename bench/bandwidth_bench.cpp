// SPDX-License-Identifier: Apache-2.0
// Memory bandwidth of kernels on memory that is where they need it: SVM memory, and malloc'd memory after migration.
// Beside PoCL with the same kernel on its SVM memory.
#include <cstdlib>

#include "bench/report.h"
#include "bench/samples.h"

namespace mirrorcl::bench {

namespace {

constexpr std::size_t kFloats = std::size_t{16} << 20;  // of each array: 64 MiB
constexpr std::size_t kArrayBytes = kFloats * sizeof(float);

const char* const kSource = R"(
  kernel void copy(global float* a, global const float* b, global const float* c) {
    size_t i = get_global_id(0);
    a[i] = b[i];
  }
  kernel void triad(global float* a, global const float* b, global const float* c) {
    size_t i = get_global_id(0);
    a[i] = b[i] + 3.0f * c[i];
  })";

Measurement measure(Platform& platform, const char* name, bool svm, int launches) {
  const auto allocate = [&]() -> std::shared_ptr<void> {
    if (svm) return platform.svm_alloc(kArrayBytes);
    return {std::malloc(kArrayBytes), std::free};
  };
  const std::shared_ptr<void> memory[3] = {allocate(), allocate(), allocate()};
  float* arrays[3];
  for (int i = 0; i < 3; i++) {
    arrays[i] = static_cast<float*>(memory[i].get());
    std::fill_n(arrays[i], kFloats, static_cast<float>(i));  // a = 0, b = 1, c = 2
  }
  cl_kernel kernel = platform.kernel(kSource, name);
  platform.set_pointers(kernel, {arrays[0], arrays[1], arrays[2]});
  const double seconds = median_time(launches, [&] {
    platform.enqueue(kernel, {kFloats, 256});
    platform.finish();
  });
  const bool is_triad = std::string(name) == "triad";
  for (std::size_t i = 0; i < kFloats; i += 4099) expect(arrays[0][i] == (is_triad ? 7.0f : 1.0f), name);
  return {seconds, static_cast<double>((is_triad ? 3 : 2) * kArrayBytes)};
}

}  // namespace

void add_bandwidth_benchmarks(const Setup& setup) {
  const int launches = setup.scaled(7, 3);
  for (const char* name : {"copy", "triad"}) {
    const std::string prefix = std::string("bandwidth/") + name;
    const auto add = [&](const std::string& suffix, Platform* platform, bool svm) {
      if (platform == nullptr) return;
      setup.add(prefix + suffix, benchmark::kMillisecond, [=] { return measure(*platform, name, svm, launches); });
    };
    add("/mirrorcl_svm", setup.mirrorcl, true);
    add("/mirrorcl_malloc", setup.mirrorcl, false);
    add("/pocl_svm", setup.pocl, true);
    setup.report.add_row({std::string(name) + ", SVM memory / PoCL", prefix + "/mirrorcl_svm", prefix + "/pocl_svm",
                          Row::Unit::kBandwidth, Row::Kind::kAtLeast, 1.0});
    setup.report.add_row({std::string(name) + ", resident malloc'd memory / PoCL", prefix + "/mirrorcl_malloc",
                          prefix + "/pocl_svm", Row::Unit::kBandwidth, Row::Kind::kAtLeast, 1.0});
  }
}

}  // namespace mirrorcl::bench
