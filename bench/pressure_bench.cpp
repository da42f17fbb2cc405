// SPDX-License-Identifier: Apache-2.0
// A kernel that streams over twice the device's memory, again and again, beside what that should cost: the same kernel
// on resident memory, and one copy in and one copy home for each byte at the speed of a memcpy into fresh memory.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>

#include "bench/report.h"
#include "bench/samples.h"
#include "bench/subprocess.h"

namespace mirrorcl::bench {

namespace {

constexpr std::size_t kBytes = std::size_t{256} << 20;
constexpr std::size_t kWords = kBytes / sizeof(std::uint64_t);
constexpr int kPasses = 3;

const char* const kSource = R"(
  kernel void increment(global ulong* words) { words[get_global_id(0)]++; })";

using Words = std::unique_ptr<std::uint64_t[], decltype(&std::free)>;

double copy_to_fresh_memory(const Words& from) {
  const Words to(static_cast<std::uint64_t*>(std::malloc(kBytes)), std::free);
  const double seconds = time_of([&] { std::memcpy(to.get(), from.get(), kBytes); });
  expect(to[kWords - 1] == from[kWords - 1], "memcpy");
  return seconds;
}

}  // namespace

int pressure_probe(const std::string& name) try {
  const cl_platform_id id = find_platform(name);
  expect(id != nullptr, "platform " + name);
  Platform platform(id);
  cl_kernel kernel = platform.kernel(kSource, "increment");
  const Words words(static_cast<std::uint64_t*>(std::malloc(kBytes)), std::free);
  for (std::size_t i = 0; i < kWords; i++) words[i] = i;
  const double copy = copy_to_fresh_memory(words);
  platform.set_pointers(kernel, {words.get()});
  const auto pass = [&] {
    platform.enqueue(kernel, {kWords, 256});
    platform.finish();
  };
  const double each = median_time(kPasses, pass);
  for (std::size_t i = 0; i < kWords; i += 4096) expect(words[i] == i + kPasses + 1, "a word after all passes");
  std::printf("pass %.9f\ncopy %.9f\n", each, copy);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "pressure probe: %s\n", error.what());
  return 1;
}

void add_pressure_benchmarks(const Setup& setup) {
  if (setup.mirrorcl == nullptr) return;
  const auto probe = [vendors = setup.vendors.mirrorcl_only()](const char* memory) {
    return run_probe("pressure", {"MirrorCL"}, {{"OCL_ICD_VENDORS", vendors}, {"MIRRORCL_DEVICE_MEMORY", memory}});
  };
  setup.add("pressure/mirrorcl", benchmark::kMillisecond, [probe]() -> Measurement {
    return {probe("128M").at("pass"), kBytes};
  });
  setup.add("pressure/ideal", benchmark::kMillisecond, [probe]() -> Measurement {
    const auto resident = probe("1G");
    return {resident.at("pass") + 2 * resident.at("copy"), kBytes};
  });
  setup.report.add_row({"a kernel over twice the device's memory / resident, and the copies at memcpy's speed",
                        "pressure/mirrorcl", "pressure/ideal", Row::Unit::kMilliseconds, Row::Kind::kAtMost, 2.0});
}

}  // namespace mirrorcl::bench
