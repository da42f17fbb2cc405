// SPDX-License-Identifier: Apache-2.0
// What it costs to move 256 MiB of malloc'd memory to the device at a kernel's first touch, and home at the CPU's,
// beside a memcpy into memory that was never touched; and to do both again and again, when the pages that were freed
// can be used again, beside a memcpy between resident buffers, for pages as malloc gives them and for huge pages. Both
// sides' time to work on resident memory is taken off. And the whole first kernel in a fresh process, on the mirrored
// device and on the ATS device, which has nothing to move.
#include <sys/mman.h>

#include <algorithm>
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

// What is done again and again is measured five times in a row, of which the best counts: the first times, memory is
// still found for the pages.
constexpr int kInARow = 5;

template <typename Once>
double best_of(Once once) {
  double best = once();
  for (int i = 1; i < kInARow; ++i) best = std::min(best, once());
  return best;
}

// Memory that goes to the device and comes home as often as it is asked for.
class RoundTrips {
 public:
  RoundTrips(Platform& platform, Pages pages)
      : platform_(platform), kernel_(platform.kernel(kSource, "increment")), words_(touched_memory(pages)) {}

  // Seconds.
  struct Trip {
    double to_device;
    double to_host;
  };
  Trip next() {
    platform_.set_pointers(kernel_, {words_.get()});
    const auto run = [&] {
      platform_.enqueue(kernel_, {kWords, 256});
      platform_.finish();
    };
    const std::uint64_t sum = sum_of(words_);
    // Later than the mirror's window for pages that go back and forth: they migrate, and do not become coherent.
    const auto wait = [] { std::this_thread::sleep_for(std::chrono::milliseconds(120)); };
    wait();
    const double away = time_of(run);
    const double resident = time_of(run);
    wait();
    const double back = time_of([&] { increment(words_); });
    const double home = time_of([&] { increment(words_); });
    expect(sum_of(words_) == sum + 4 * kWords, "sum of the words after a round trip");
    return {away - resident, back - home};
  }

 private:
  Platform& platform_;
  cl_kernel kernel_;
  Words words_;
};

void add_round_trips(const Setup& setup, const std::string& name, Pages pages) {
  auto trips = std::make_shared<std::unique_ptr<RoundTrips>>();
  const auto next = [trips, pages, &device = *setup.mirrorcl] {
    if (*trips == nullptr) *trips = std::make_unique<RoundTrips>(device, pages);
    return (*trips)->next();
  };
  setup.add("migration/" + name + "to_device_again", benchmark::kMillisecond, [next]() -> Measurement {
    return {best_of([&] { return next().to_device; }), kBytes};
  });
  setup.add("migration/" + name + "to_host_again", benchmark::kMillisecond, [next]() -> Measurement {
    return {best_of([&] { return next().to_host; }), kBytes};
  });
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
    add_round_trips(setup, "", Pages::kAsMallocGives);
    add_round_trips(setup, "huge_", Pages::kHuge);
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
    const double seconds = best_of([&] { return time_of([&] { std::memcpy(to.get(), from.get(), kBytes); }); });
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
        {what, "migration/" + name, "migration/memcpy_resident", Row::Unit::kBandwidth, Row::Kind::kAtLeast, 0.8});
  };
  add_again("the same to the device again / memcpy of resident memory", "to_device_again");
  add_again("and back to the CPU again / memcpy of resident memory", "to_host_again");
  add_again("huge pages to the device again / memcpy of resident memory", "huge_to_device_again");
  add_again("and back to the CPU again / memcpy of resident memory", "huge_to_host_again");
}

}  // namespace mirrorcl::bench
