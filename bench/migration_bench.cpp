// SPDX-License-Identifier: Apache-2.0
// What it costs to move 256 MiB of malloc'd memory to the device at a kernel's first touch, and home at the CPU's,
// beside a memcpy into memory that was never touched; and to do both again, when the pages that were freed can be used
// again, beside a memcpy between resident buffers. Both sides' time to work on resident memory is taken off. And the
// whole first kernel in a fresh process, on the mirrored device and on the ATS device, which has nothing to move.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <thread>

#include "bench/report.h"
#include "bench/samples.h"
#include "bench/subprocess.h"

namespace mirrorcl::bench {

namespace {

constexpr std::size_t kBytes = std::size_t{256} << 20;
constexpr std::size_t kWords = kBytes / sizeof(std::uint64_t);

const char* const kSource = R"(
  kernel void increment(global ulong* words) { words[get_global_id(0)]++; })";

using Words = std::unique_ptr<std::uint64_t[], decltype(&std::free)>;

Words touched_memory() {
  Words words(static_cast<std::uint64_t*>(std::malloc(kBytes)), std::free);
  for (std::size_t i = 0; i < kWords; i++) words[i] = i;
  return words;
}

std::uint64_t sum_of(const Words& words) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < kWords; i++) sum += words[i];
  return sum;
}

void increment(const Words& words) {
  for (std::size_t i = 0; i < kWords; i++) words[i]++;
  benchmark::DoNotOptimize(words.get());
}

// Seconds.
struct RoundTrip {
  double first_kernel;
  double to_device;
  double to_host;
  double to_device_again;
  double to_host_again;
};

RoundTrip measure(Platform& platform) {
  cl_kernel kernel = platform.kernel(kSource, "increment");
  const Words words = touched_memory();
  platform.set_pointers(kernel, {words.get()});
  const auto run = [&] {
    platform.enqueue(kernel, {kWords, 256});
    platform.finish();
  };
  const double first = time_of(run);
  const double resident = std::min(time_of(run), time_of(run));
  std::uint64_t sum = 0;
  const double first_home = time_of([&] { sum = sum_of(words); });
  expect(sum == kWords * (kWords - 1) / 2 + 3 * kWords, "sum of the words after three kernels");
  const double home = time_of([&] { benchmark::DoNotOptimize(sum_of(words)); });
  // What the host writes leaves the device.
  increment(words);
  const double home_written = time_of([&] { increment(words); });
  // Later than the mirror's window for pages that go back and forth: they migrate, and do not become coherent.
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  const double again = time_of(run);
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  const double home_again = time_of([&] { increment(words); });
  expect(sum_of(words) == sum + 4 * kWords, "sum of the words after one more kernel");
  return {first, first - resident, first_home - home, again - resident, home_again - home_written};
}

}  // namespace

int first_touch_probe(const std::string& name) try {
  const cl_platform_id id = find_platform(name);
  expect(id != nullptr, "platform " + name);
  Platform platform(id);
  std::printf("first_kernel %.9f\n", measure(platform).first_kernel);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "first-touch probe: %s\n", error.what());
  return 1;
}

void add_migration_benchmarks(const Setup& setup) {
  if (setup.mirrorcl != nullptr) {
    setup.add("migration/to_device", benchmark::kMillisecond, [&device = *setup.mirrorcl]() -> Measurement {
      return {measure(device).to_device, kBytes};
    });
    setup.add("migration/to_host", benchmark::kMillisecond, [&device = *setup.mirrorcl]() -> Measurement {
      return {measure(device).to_host, kBytes};
    });
    setup.add("migration/to_device_again", benchmark::kMillisecond, [&device = *setup.mirrorcl]() -> Measurement {
      return {measure(device).to_device_again, kBytes};
    });
    setup.add("migration/to_host_again", benchmark::kMillisecond, [&device = *setup.mirrorcl]() -> Measurement {
      return {measure(device).to_host_again, kBytes};
    });
  }
  if (setup.mirrorcl != nullptr) {
    for (const std::string kind : {"mirrored", "ats"}) {
      setup.add("first_touch/" + kind, benchmark::kMillisecond,
                [kind, vendors = setup.vendors.mirrorcl_only()]() -> Measurement {
                  const auto numbers =
                      run_probe("first-touch", {"MirrorCL"}, {{"OCL_ICD_VENDORS", vendors}, {"MIRRORCL_DEVICE", kind}});
                  return {numbers.at("first_kernel"), kBytes};
                });
    }
  }
  setup.add("migration/memcpy_to_fresh", benchmark::kMillisecond, []() -> Measurement {
    const Words from = touched_memory();
    const Words to(static_cast<std::uint64_t*>(std::malloc(kBytes)), std::free);
    const double seconds = time_of([&] { std::memcpy(to.get(), from.get(), kBytes); });
    expect(to[kWords - 1] == kWords - 1, "memcpy");
    return {seconds, kBytes};
  });
  setup.add("migration/memcpy_resident", benchmark::kMillisecond, []() -> Measurement {
    const Words from = touched_memory();
    const Words to = touched_memory();
    const double seconds = time_of([&] { std::memcpy(to.get(), from.get(), kBytes); });
    expect(to[kWords - 1] == kWords - 1, "memcpy");
    return {seconds, kBytes};
  });
  setup.report.add_row({"256 MiB of malloc'd memory to the device / memcpy to fresh", "migration/to_device",
                        "migration/memcpy_to_fresh", Row::Unit::kBandwidth, Row::Kind::kAtLeast, 1.5});
  setup.report.add_row({"first kernel over 256 MiB, ATS / mirrored device", "first_touch/ats", "first_touch/mirrored",
                        Row::Unit::kMilliseconds});
  setup.report.add_row({"the same 256 MiB back to the CPU / memcpy to fresh", "migration/to_host",
                        "migration/memcpy_to_fresh", Row::Unit::kBandwidth, Row::Kind::kAtLeast, 1.5});
  setup.report.add_row({"the same to the device again / memcpy between resident buffers", "migration/to_device_again",
                        "migration/memcpy_resident", Row::Unit::kBandwidth, Row::Kind::kAtLeast, 0.8});
  setup.report.add_row({"and back to the CPU again / memcpy between resident buffers", "migration/to_host_again",
                        "migration/memcpy_resident", Row::Unit::kBandwidth, Row::Kind::kAtLeast, 0.8});
}

}  // namespace mirrorcl::bench
