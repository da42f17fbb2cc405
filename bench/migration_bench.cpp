// SPDX-License-Identifier: Apache-2.0
// What it costs to move 256 MiB of malloc'd memory to the device at a kernel's first touch, and home at the CPU's,
// beside a memcpy into memory that was never touched; and to do both again and again, when the pages that were freed
// can be used again, beside a memcpy between resident buffers, for pages as malloc gives them and for huge pages. Both
// sides' time to work on resident memory is taken off. And the whole first kernel in a fresh process, on the mirrored
// device and on the ATS device, which has nothing to move.
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <thread>
#include <vector>

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

enum class Pages { kAsMallocGives, kHuge };

Words touched_memory(Pages pages = Pages::kAsMallocGives) {
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  const bool huge = pages == Pages::kHuge;
  Words words(static_cast<std::uint64_t*>(huge ? std::aligned_alloc(kHugePage, kBytes) : std::malloc(kBytes)),
              std::free);
  if (huge) expect(madvise(words.get(), kBytes, MADV_HUGEPAGE) == 0, "MADV_HUGEPAGE");
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
struct FirstTrip {
  double first_kernel;
  double to_device;
  double to_host;
};

FirstTrip measure(Platform& platform) {
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
  return {first, first - resident, first_home - home};
}

// Moves memory to the device and home, `rounds` times; what each way cost in the last quarter of them, when both sides
// use memory that they have had before.
struct RoundTrips {
  std::vector<double> to_device;  // seconds
  std::vector<double> to_host;
};

RoundTrips round_trips(Platform& platform, Pages pages, int rounds) {
  cl_kernel kernel = platform.kernel(kSource, "increment");
  const Words words = touched_memory(pages);
  platform.set_pointers(kernel, {words.get()});
  const auto run = [&] {
    platform.enqueue(kernel, {kWords, 256});
    platform.finish();
  };
  // Later than the mirror's window for pages that go back and forth: they migrate, and do not become coherent.
  const auto wait = [] { std::this_thread::sleep_for(std::chrono::milliseconds(120)); };
  RoundTrips trips;
  for (int round = 1; round <= rounds; ++round) {
    const std::uint64_t sum = sum_of(words);
    wait();
    const double away = time_of(run);
    const double resident = time_of(run);
    wait();
    const double back = time_of([&] { increment(words); });
    const double home = time_of([&] { increment(words); });
    expect(sum_of(words) == sum + 4 * kWords, "sum of the words after a round trip");
    if (round <= rounds - (rounds + 3) / 4) continue;
    trips.to_device.push_back(away - resident);
    trips.to_host.push_back(back - home);
  }
  return trips;
}

// Two benchmarks of one probe: what it found for the other is kept for that.
void add_round_trips(const Setup& setup, const std::string& pages) {
  const auto kept = std::make_shared<std::map<std::string, double>>();
  const auto measured = [kept, pages, rounds = setup.scaled(16, 4),
                         vendors = setup.vendors.mirrorcl_only()](const std::string& way) -> Measurement {
    if (!kept->contains(way)) {
      *kept = run_probe("round-trips", {"MirrorCL", pages, std::to_string(rounds)}, {{"OCL_ICD_VENDORS", vendors}});
    }
    const double seconds = kept->at(way);
    kept->erase(way);
    return {seconds, kBytes};
  };
  for (const std::string way : {"to_device", "to_host"}) {
    setup.add("round_trips/" + pages + "_" + way, benchmark::kMillisecond, [=] { return measured(way); });
  }
}

}  // namespace

int round_trips_probe(const std::string& name, const std::string& pages, int rounds) try {
  const cl_platform_id id = find_platform(name);
  expect(id != nullptr, "platform " + name);
  Platform platform(id);
  const RoundTrips trips = round_trips(platform, pages == "huge" ? Pages::kHuge : Pages::kAsMallocGives, rounds);
  std::printf("to_device %.9f\nto_host %.9f\n", median(trips.to_device), median(trips.to_host));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "round-trips probe: %s\n", error.what());
  return 1;
}

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
    add_round_trips(setup, "malloc");
    add_round_trips(setup, "huge");
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
  const auto add_again = [&](const std::string& what, const std::string& name) {
    setup.report.add_row(
        {what, "round_trips/" + name, "migration/memcpy_resident", Row::Unit::kBandwidth, Row::Kind::kAtLeast, 0.8});
  };
  add_again("the same to the device again / memcpy of resident memory", "malloc_to_device");
  add_again("and back to the CPU again / memcpy of resident memory", "malloc_to_host");
  add_again("huge pages to the device again / memcpy of resident memory", "huge_to_device");
  add_again("and back to the CPU again / memcpy of resident memory", "huge_to_host");
}

}  // namespace mirrorcl::bench
