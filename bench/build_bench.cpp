// SPDX-License-Identifier: Apache-2.0
// From source text to the first finished launch. PoCL compiles part of a kernel at its first launch, so clBuildProgram
// alone would not compare. Cold: a source never seen before; cached: one that was built before, from the disk cache.
#include <fmt/format.h>
#include <unistd.h>

#include "bench/report.h"
#include "bench/samples.h"

namespace mirrorcl::bench {

namespace {

// A number makes the text, and so its cache entry, new.
std::string source(int number) {
  return fmt::format(R"(
    // {}
    kernel void smooth(global float* out, global const float* in, local float* tile) {{
      size_t i = get_local_id(0);
      tile[i] = in[get_global_id(0)];
      barrier(CLK_LOCAL_MEM_FENCE);
      float sum = tile[i];
      if (i > 0) sum += tile[i - 1];
      if (i + 1 < get_local_size(0)) sum += tile[i + 1];
      out[get_global_id(0)] = native_sqrt(sum) + (float){};
    }})",
                     number, number);
}

double build_and_run(Platform& platform, int number) {
  constexpr std::size_t kItems = 256;
  auto memory = platform.svm_alloc(2 * kItems * sizeof(float));
  auto* floats = static_cast<float*>(memory.get());
  std::fill_n(floats + kItems, kItems, 3.0f);
  const std::string text = source(number);

  cl_program program = nullptr;
  cl_kernel kernel = nullptr;
  const double seconds = time_of([&] {
    program = platform.build(text);
    cl_int status = CL_SUCCESS;
    kernel = clCreateKernel(program, "smooth", &status);
    check(status, "clCreateKernel");
    platform.set_pointers(kernel, {floats, floats + kItems});
    check(clSetKernelArg(kernel, 2, 64 * sizeof(float), nullptr), "clSetKernelArg");
    platform.enqueue(kernel, {kItems, 64});
    platform.finish();
  });
  clReleaseKernel(kernel);
  clReleaseProgram(program);
  expect(floats[1] == 3.0f + static_cast<float>(number), "the built kernel's output");
  return seconds;
}

int fresh_number() {
  static int next = 1;
  return next++;
}

}  // namespace

void add_build_benchmarks(const Setup& setup) {
  const auto add = [&](const std::string& suffix, Platform* platform) {
    if (platform == nullptr) return;
    setup.add("build/cold" + suffix, benchmark::kMillisecond,
              [=]() -> Measurement { return {build_and_run(*platform, fresh_number())}; });
    setup.add("build/cached" + suffix, benchmark::kMillisecond, [=]() -> Measurement {
      const int number = fresh_number();
      build_and_run(*platform, number);
      return {build_and_run(*platform, number)};
    });
  };
  add("/mirrorcl", setup.mirrorcl);
  add("/pocl", setup.pocl);
  setup.report.add_row(
      {"source to first result, cold / PoCL", "build/cold/mirrorcl", "build/cold/pocl", Row::Unit::kMilliseconds});
  setup.report.add_row({"source to first result, cached / PoCL", "build/cached/mirrorcl", "build/cached/pocl",
                        Row::Unit::kMilliseconds});
}

}  // namespace mirrorcl::bench
