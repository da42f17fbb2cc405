// SPDX-License-Identifier: Apache-2.0
// The cost of launching a kernel that does nothing: enqueue and wait, and many enqueues before one wait.
#include "bench/report.h"
#include "bench/samples.h"

namespace mirrorcl::bench {

namespace {

const char* const kSource = "kernel void empty(void) {}";
constexpr int kPipelined = 1000;

}  // namespace

void add_launch_benchmarks(const Setup& setup) {
  const int launches = setup.scaled(1000, 200);
  const int pipelines = setup.scaled(15, 5);
  const auto add = [&](const std::string& suffix, Platform* platform) {
    if (platform == nullptr) return;
    setup.add("launch/single" + suffix, benchmark::kMicrosecond, [=]() -> Measurement {
      cl_kernel kernel = platform->kernel(kSource, "empty");
      return {median_time(launches, [&] {
        platform->enqueue(kernel, {1, 1});
        platform->finish();
      })};
    });
    setup.add("launch/pipelined" + suffix, benchmark::kMicrosecond, [=]() -> Measurement {
      cl_kernel kernel = platform->kernel(kSource, "empty");
      return {median_time(pipelines,
                          [&] {
                            for (int i = 0; i < kPipelined; i++) platform->enqueue(kernel, {1, 1});
                            platform->finish();
                          }) /
              kPipelined};
    });
  };
  add("/mirrorcl", setup.mirrorcl);
  add("/pocl", setup.pocl);
  setup.report.add_row({"empty kernel, enqueue and clFinish / PoCL", "launch/single/mirrorcl", "launch/single/pocl",
                        Row::Unit::kMicroseconds, Row::Kind::kAtMost, 0.5});
  setup.report.add_row({"1,000 empty kernels, then clFinish, each / PoCL", "launch/pipelined/mirrorcl",
                        "launch/pipelined/pocl", Row::Unit::kMicroseconds, Row::Kind::kAtMost, 0.5});
}

}  // namespace mirrorcl::bench
