// SPDX-License-Identifier: Apache-2.0
// What an idle mirror costs the application: page faults and malloc in a process that has used the device once, beside
// the same in a process that never heard of it.
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <thread>
#include <vector>

#include "bench/report.h"
#include "bench/samples.h"
#include "bench/subprocess.h"

namespace mirrorcl::bench {

namespace {

const char* const kSource = R"(
  kernel void increment(global ulong* words) { words[get_global_id(0)]++; })";

// A kernel over malloc'd memory, which is freed afterwards.
void use_device_once(const std::string& name) {
  const cl_platform_id id = find_platform(name);
  expect(id != nullptr, "platform " + name);
  Platform platform(id);
  cl_kernel kernel = platform.kernel(kSource, "increment");
  std::vector<std::uint64_t> words(1 << 20);
  platform.set_pointers(kernel, {words.data()});
  platform.enqueue(kernel, {words.size(), 256});
  platform.finish();
  expect(words.front() == 1 && words.back() == 1, "words after one kernel");
}

void touch_fresh_pages() {
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  auto* memory = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  expect(memory != MAP_FAILED, "mmap");
  madvise(memory, kBytes, MADV_NOHUGEPAGE);
  for (std::size_t i = 0; i < kBytes; i += 4096) memory[i] = 1;
  munmap(memory, kBytes);
}

void churn_heap() {
  std::mt19937 random(7);
  std::vector<void*> blocks(4096, nullptr);
  for (int i = 0; i < 1'000'000; i++) {
    void*& block = blocks[random() % blocks.size()];
    std::free(block);
    block = std::malloc(16 + random() % 4096);
    *static_cast<char*>(block) = 1;
  }
  for (void* block : blocks) std::free(block);
}

}  // namespace

int idle_probe(const std::string& name) try {
  // malloc is quicker in a process that has never had a second thread; here neither is one.
  std::atomic<bool> over{false};
  std::thread other([&] { over.wait(false); });
  if (name != "none") use_device_once(name);
  std::printf("faults %.9f\nmalloc %.9f\n", median_time(9, touch_fresh_pages), median_time(9, churn_heap));
  over = true;
  over.notify_all();
  other.join();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "idle probe: %s\n", error.what());
  return 1;
}

void add_idle_benchmarks(const Setup& setup) {
  if (setup.mirrorcl == nullptr) return;
  for (const std::string key : {"faults", "malloc"}) {
    for (const std::string name : {"MirrorCL", "none"}) {
      setup.add("idle/" + key + "/" + name, benchmark::kMillisecond,
                [=, vendors = setup.vendors.mirrorcl_only()]() -> Measurement {
                  return {run_probe("idle", {name}, {{"OCL_ICD_VENDORS", vendors}}).at(key)};
                });
    }
  }
  setup.report.add_row({"first touch of 64 MiB beside an idle mirror / without", "idle/faults/MirrorCL",
                        "idle/faults/none", Row::Unit::kMilliseconds, Row::Kind::kAtMost, 1.02});
  setup.report.add_row({"a million malloc and free beside an idle mirror / without", "idle/malloc/MirrorCL",
                        "idle/malloc/none", Row::Unit::kMilliseconds, Row::Kind::kAtMost, 1.02});
}

}  // namespace mirrorcl::bench
