// SPDX-License-Identifier: Apache-2.0
// An isolated device fault: a one-work-item kernel reads pages that the host has written, each in a block of its own.
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "bench/fault_pages.h"
#include "bench/report.h"
#include "bench/samples.h"
#include "bench/subprocess.h"

namespace mirrorcl::bench {

namespace {

const char* const kSource = R"(
  kernel void touch(global const ulong* addresses, global const uint* count, global ulong* sum) {
    ulong s = 0;
    for (uint i = 0; i < *count; i++) s += *(global const ulong*)addresses[i];
    *sum = s;
  })";

struct Control {  // in SVM memory: coherent from birth, faults nowhere
  std::uint64_t addresses[kFaultBatch];
  std::uint64_t sum;
  std::uint32_t count;
};

Measurement measure(Platform& platform, int batches) {
  // One block more, so that the pages lie where isolated_pages() thinks they do.
  std::unique_ptr<char, decltype(&std::free)> memory(static_cast<char*>(std::malloc(kFaultRange + kBlock)), std::free);
  char* range = memory.get() + (kBlock - reinterpret_cast<std::uintptr_t>(memory.get()) % kBlock);
  for (std::size_t offset = 0; offset < kFaultRange; offset += kPage) {
    *reinterpret_cast<std::uint64_t*>(range + offset) = offset;
  }
  auto shared = platform.svm_alloc(sizeof(Control));
  auto* control = static_cast<Control*>(shared.get());
  cl_kernel kernel = platform.kernel(kSource, "touch");
  platform.set_pointers(kernel, {control->addresses, &control->count, &control->sum});
  const auto launch = [&](std::uint32_t count) {
    control->count = count;
    return time_of([&] {
      platform.enqueue(kernel, {1, 1});
      platform.finish();
    });
  };
  for (int i = 0; i < 50; i++) launch(0);

  const std::vector<std::size_t> pages = isolated_pages(batches);
  std::vector<double> empty;
  std::vector<double> faulting;
  for (std::size_t first = 0; first < pages.size(); first += kFaultBatch) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < kFaultBatch; i++) {
      sum += pages[first + i];
      control->addresses[i] = reinterpret_cast<std::uint64_t>(range + pages[first + i]);
    }
    empty.push_back(launch(0));
    faulting.push_back(launch(kFaultBatch));
    expect(control->sum == sum, "sum of the pages that the kernel read");
  }
  return {(median(std::move(faulting)) - median(std::move(empty))) / kFaultBatch};
}

}  // namespace

void add_fault_benchmarks(const Setup& setup) {
  const int batches = setup.scaled(128, 32);
  if (setup.mirrorcl != nullptr) {
    setup.add("device_fault/mirrorcl", benchmark::kMicrosecond,
              [&device = *setup.mirrorcl, batches] { return measure(device, batches); });
  }
  setup.add("device_fault/bare", benchmark::kMicrosecond,
            [batches]() -> Measurement { return {run_probe("bare-fault", {std::to_string(batches)}).at("fault")}; });
  setup.report.add_row({"isolated 4 KiB device fault / bare userfaultfd round trip", "device_fault/mirrorcl",
                        "device_fault/bare", Row::Unit::kMicroseconds, Row::Kind::kAtMost, 2.0});
}

}  // namespace mirrorcl::bench
