// SPDX-License-Identifier: Apache-2.0
// What it costs to move 256 MiB of malloc'd memory to the device at a kernel's first touch, and home at the CPU's,
// beside a memcpy into memory that was never touched; and to do both again and again, when the pages that were freed
// can be used again, beside a memcpy between resident buffers, for pages as malloc gives them and for huge pages. Both
// sides' time to work on resident memory is taken off. The same when the program asks for each move
// (clBindMemoryMIRRORCL), and nothing else happens meanwhile. And the whole first kernel in a fresh process, on the
// mirrored device and on the ATS device, which has nothing to move.
#include <sys/mman.h>

#include <algorithm>
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

#include "CL/cl_ext_mirrorcl.h"
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

// The extension cl_mirrorcl_hms.
class MemoryTargets {
 public:
  MemoryTargets(cl_platform_id platform, cl_device_id device)
      : device_(device), bind_(function<clBindMemoryMIRRORCL_fn>(platform, "clBindMemoryMIRRORCL")) {
    const auto get = function<clGetMemoryTargetsMIRRORCL_fn>(platform, "clGetMemoryTargetsMIRRORCL");
    cl_uint count = 0;
    check(get(device, 0, nullptr, &count), "clGetMemoryTargetsMIRRORCL");
    targets_.resize(count);
    check(get(device, count, targets_.data(), nullptr), "clGetMemoryTargetsMIRRORCL");
  }

  // A target with this flag, or null.
  const cl_memory_target_info_mirrorcl* find(cl_uint flag) const {
    for (const cl_memory_target_info_mirrorcl& target : targets_) {
      if ((target.flags & flag) != 0) return &target;
    }
    return nullptr;
  }

  // Seconds that it takes to move all of `words` to a target with this flag.
  double time_to_move(const Words& words, cl_uint flag) const {
    const auto* target = find(flag);
    expect(target != nullptr, "a memory target");
    cl_ulong moved = 0;
    const double seconds = time_of([&] {
      check(bind_(device_, words.get(), kBytes, CL_MEMORY_BINDING_MIGRATE_MIRRORCL, 1, &target->uid, &moved),
            "clBindMemoryMIRRORCL");
    });
    expect(moved >= kBytes / 4096, "all pages move");
    return seconds;
  }

 private:
  template <typename Function>
  static Function function(cl_platform_id platform, const char* name) {
    void* const found = clGetExtensionFunctionAddressForPlatform(platform, name);
    expect(found != nullptr, name);
    return reinterpret_cast<Function>(found);
  }

  cl_device_id device_;
  clBindMemoryMIRRORCL_fn bind_;
  std::vector<cl_memory_target_info_mirrorcl> targets_;
};

// The same, but the program asks for each move, and does nothing meanwhile.
RoundTrips asked_trips(cl_platform_id id, Platform& platform, Pages pages, int rounds) {
  const MemoryTargets targets(id, platform.device());
  cl_kernel kernel = platform.kernel(kSource, "increment");
  const Words words = touched_memory(pages);
  platform.set_pointers(kernel, {words.get()});
  const auto wait = [] { std::this_thread::sleep_for(std::chrono::milliseconds(120)); };
  RoundTrips trips;
  for (int round = 1; round <= rounds; ++round) {
    const std::uint64_t sum = sum_of(words);
    wait();
    const double away = targets.time_to_move(words, CL_MEMORY_TARGET_OWN_MIRRORCL);
    platform.enqueue(kernel, {kWords, 256});
    platform.finish();
    wait();
    const double back = targets.time_to_move(words, CL_MEMORY_TARGET_HOST_MIRRORCL);
    expect(sum_of(words) == sum + kWords, "sum of the words after a round trip");
    if (round <= rounds - (rounds + 3) / 4) continue;
    trips.to_device.push_back(away);
    trips.to_host.push_back(back);
  }
  return trips;
}

// Two benchmarks of one probe: what it found for the other is kept for that.
void add_round_trips(const Setup& setup, const std::string& pages, const std::string& trips) {
  const auto kept = std::make_shared<std::map<std::string, double>>();
  const auto measured = [kept, pages, trips, rounds = setup.scaled(48, 4),
                         vendors = setup.vendors.mirrorcl_only()](const std::string& way) -> Measurement {
    if (!kept->contains(way)) {
      *kept =
          run_probe("round-trips", {"MirrorCL", pages, trips, std::to_string(rounds)}, {{"OCL_ICD_VENDORS", vendors}});
    }
    const double seconds = kept->at(way);
    kept->erase(way);
    return {seconds, kBytes};
  };
  for (const std::string way : {"to_device", "to_host"}) {
    setup.add(trips + "/" + pages + "_" + way, benchmark::kMillisecond, [=] { return measured(way); });
  }
}

}  // namespace

int round_trips_probe(const std::string& name, const std::string& pages, const std::string& trips, int rounds) try {
  const cl_platform_id id = find_platform(name);
  expect(id != nullptr, "platform " + name);
  Platform platform(id);
  const Pages kind = pages == "huge" ? Pages::kHuge : Pages::kAsMallocGives;
  const RoundTrips found =
      trips == "asked_trips" ? asked_trips(id, platform, kind, rounds) : round_trips(platform, kind, rounds);
  std::printf("to_device %.9f\nto_host %.9f\n", median(found.to_device), median(found.to_host));
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
    const MemoryTargets targets(find_platform("MirrorCL"), setup.mirrorcl->device());
    const bool has_memory = targets.find(CL_MEMORY_TARGET_OWN_MIRRORCL) != nullptr;  // the ATS device has none
    for (const std::string pages : {"malloc", "huge"}) {
      add_round_trips(setup, pages, "round_trips");
      if (has_memory) add_round_trips(setup, pages, "asked_trips");
    }
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
    setup.report.add_row({what, name, "migration/memcpy_resident", Row::Unit::kBandwidth, Row::Kind::kAtLeast, 0.8});
  };
  add_again("the same to the device again / memcpy of resident memory", "round_trips/malloc_to_device");
  add_again("and back to the CPU again / memcpy of resident memory", "round_trips/malloc_to_host");
  add_again("huge pages to the device again / memcpy of resident memory", "round_trips/huge_to_device");
  add_again("and back to the CPU again / memcpy of resident memory", "round_trips/huge_to_host");
  add_again("malloc'd memory, asked to the device / memcpy of resident memory", "asked_trips/malloc_to_device");
  add_again("and asked back / memcpy of resident memory", "asked_trips/malloc_to_host");
  add_again("huge pages, asked to the device / memcpy of resident memory", "asked_trips/huge_to_device");
  add_again("and asked back / memcpy of resident memory", "asked_trips/huge_to_host");
}

}  // namespace mirrorcl::bench
