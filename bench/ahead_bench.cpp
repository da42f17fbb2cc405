// SPDX-License-Identifier: Apache-2.0
// A kernel over malloc'd memory that no device has had yet, which has to wait: behind a kernel that keeps one compute
// unit busy, behind one that keeps all busy, or for a user event. What it takes from when the wait is over; with memory
// brought ahead while it waits, and without (MIRRORCL_LAUNCH_AHEAD).
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "bench/report.h"
#include "bench/samples.h"
#include "bench/subprocess.h"

namespace mirrorcl::bench {

namespace {

const char* const kSource = R"(
  kernel void compute(global ulong* out, ulong rounds) {
    ulong x = get_global_id(0) + 1;
    for (ulong i = 0; i < rounds; i++) x = x * 6364136223846793005UL + 1442695040888963407UL;
    out[get_global_id(0)] = x;
  }
  kernel void add(global ulong* words) { words[get_global_id(0)] += 1; })";

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr double kWait = 0.04;  // seconds

// The median of what `count` calls return, after one that is not counted.
template <typename Function>
double median_of(int count, Function&& function) {
  function();
  std::vector<double> samples;
  for (int i = 0; i < count; i++) samples.push_back(function());
  return median(std::move(samples));
}

class Waits {
 public:
  explicit Waits(Platform& platform)
      : platform_(platform), out_(platform.svm_alloc(kMost * sizeof(std::uint64_t))), units_(units_of(platform)) {
    compute_ = platform_.kernel(kSource, "compute");
    add_ = platform_.kernel(kSource, "add");
    check(clSetKernelArgSVMPointer(compute_, 0, out_.get()), "clSetKernelArgSVMPointer");
    set_rounds(1'000'000);
    const double million = median_time(5, [&] { compute_alone(1); });
    set_rounds(static_cast<std::uint64_t>(1e6 * kWait / million));
  }

  // Seconds beyond those of a kernel before it in `groups` work-groups, so that it waits.
  double behind(std::size_t bytes, std::size_t groups) {
    const double alone = time_of([&] { compute_alone(groups); });
    const Words words = fresh(bytes);
    const double both = time_of([&] {
      platform_.enqueue(compute_, {groups, 1});
      platform_.enqueue(add_, {bytes / sizeof(std::uint64_t), 256});
      platform_.finish();
    });
    expect_added(words, bytes);
    return both - alone;
  }
  // Seconds from when the event that it waits for is complete.
  double behind_event(std::size_t bytes) {
    const Words words = fresh(bytes);
    cl_int status = CL_SUCCESS;
    cl_event event = clCreateUserEvent(platform_.context(), &status);
    check(status, "clCreateUserEvent");
    const std::size_t items = bytes / sizeof(std::uint64_t);
    const std::size_t group = 256;
    check(clEnqueueNDRangeKernel(platform_.queue(), add_, 1, nullptr, &items, &group, 1, &event, nullptr),
          "clEnqueueNDRangeKernel");
    usleep(static_cast<useconds_t>(kWait * 1e6));
    const double seconds = time_of([&] {
      check(clSetUserEventStatus(event, CL_COMPLETE), "clSetUserEventStatus");
      platform_.finish();
    });
    check(clReleaseEvent(event), "clReleaseEvent");
    expect_added(words, bytes);
    return seconds;
  }
  std::size_t units() const { return units_; }

 private:
  static constexpr std::size_t kMost = 1024;
  using Words = std::unique_ptr<std::uint64_t[], decltype(&std::free)>;

  static std::size_t units_of(Platform& platform) {
    cl_device_id device = nullptr;
    check(clGetContextInfo(platform.context(), CL_CONTEXT_DEVICES, sizeof device, &device, nullptr),
          "clGetContextInfo");
    cl_uint units = 0;
    check(clGetDeviceInfo(device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, nullptr), "clGetDeviceInfo");
    return std::min<std::size_t>(units, kMost);
  }
  void set_rounds(std::uint64_t rounds) {
    check(clSetKernelArg(compute_, 1, sizeof rounds, &rounds), "clSetKernelArg");
  }
  void compute_alone(std::size_t groups) {
    platform_.enqueue(compute_, {groups, 1});
    platform_.finish();
  }
  Words fresh(std::size_t bytes) {
    Words words(static_cast<std::uint64_t*>(std::malloc(bytes)), std::free);
    for (std::size_t i = 0; i < bytes / sizeof(std::uint64_t); i++) words[i] = i;
    platform_.set_pointers(add_, {words.get()});
    return words;
  }
  static void expect_added(const Words& words, std::size_t bytes) {
    const std::size_t last = bytes / sizeof(std::uint64_t) - 1;
    expect(words[0] == 1 && words[last] == last + 1, "the words that a kernel behind another has added to");
  }

  Platform& platform_;
  std::shared_ptr<void> out_;
  std::size_t units_;
  cl_kernel compute_ = nullptr;
  cl_kernel add_ = nullptr;
};

}  // namespace

int ahead_probe(const std::string& name, const std::string& behind, std::size_t mib) try {
  const cl_platform_id id = find_platform(name);
  expect(id != nullptr, "platform " + name);
  Platform platform(id);
  Waits waits(platform);
  constexpr int kRounds = 3;
  const double seconds = median_of(kRounds, [&] {
    if (behind == "event") return waits.behind_event(mib * kMiB);
    return waits.behind(mib * kMiB, behind == "all" ? waits.units() : 1);
  });
  std::printf("seconds %.9f\n", seconds);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "ahead probe: %s\n", error.what());
  return 1;
}

void add_ahead_benchmarks(const Setup& setup) {
  if (setup.mirrorcl == nullptr) return;
  struct Case {
    const char* behind;
    const char* mib;
    const char* text;
  };
  constexpr Case kCases[] = {{"one", "64", "a kernel over 64 MiB of fresh memory behind one on one unit"},
                             {"all", "64", "a kernel over 64 MiB of fresh memory behind one on all units"},
                             {"event", "64", "a kernel over 64 MiB of fresh memory behind a user event"},
                             {"event", "2", "a kernel over 2 MiB of fresh memory behind a user event"}};
  for (const Case& one : kCases) {
    const std::string name = std::string("ahead/") + one.behind + "_" + one.mib;
    for (const std::string with : {"1", "0"}) {
      setup.add(name + (with == "1" ? "/with" : "/without"), benchmark::kMillisecond,
                [one, with, vendors = setup.vendors.mirrorcl_only()]() -> Measurement {
                  const auto numbers = run_probe("ahead", {"MirrorCL", one.behind, one.mib},
                                                 {{"OCL_ICD_VENDORS", vendors}, {"MIRRORCL_LAUNCH_AHEAD", with}});
                  return {numbers.at("seconds")};
                });
    }
    setup.report.add_row(
        {std::string(one.text) + ", brought ahead / not", name + "/with", name + "/without", Row::Unit::kMilliseconds});
  }
}

}  // namespace mirrorcl::bench
