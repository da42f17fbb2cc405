// SPDX-License-Identifier: Apache-2.0
// A flag in malloc'd memory that host and running kernel hand back and forth, beside two threads that do the same. PoCL
// has no such row: it does not promise that a running kernel sees the host's writes.
#include <sched.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>

#include "bench/report.h"
#include "bench/samples.h"

namespace mirrorcl::bench {

namespace {

// Gives up, as the host does, so that a lost store ends the benchmark instead of hanging it.
const char* const kSource = R"(
  kernel void answer(global atomic_int* flag, global int* rounds) {
    for (int round = 0; round < *rounds; round++) {
      long spins = 0;
      while (atomic_load_explicit(flag, memory_order_acquire, memory_scope_all_svm_devices) != 2 * round + 1) {
        if (++spins == 10000000000) return;
      }
      atomic_store_explicit(flag, 2 * round + 2, memory_order_release, memory_scope_all_svm_devices);
    }
  })";

constexpr double kPatience = 20;  // seconds without an answer

// Waits until the flag is `value`; a thread that waits long gives its CPU away, since the other side may need it.
void await(const std::atomic<int>& flag, int value) {
  double give_up = 0;
  for (int spins = 1; flag.load(std::memory_order_acquire) != value; spins++) {
    if (spins % 4096 != 0) continue;
    if (give_up == 0) give_up = now() + kPatience;
    if (now() > give_up) throw std::runtime_error("no answer over the flag");
    std::this_thread::yield();
  }
}

// While it lives the calling thread, and threads that it starts, run on one CPU of those it had: the first or the last.
// Without it the scheduler may leave both players on one CPU, where a round takes a time slice.
class OnCpu {
 public:
  explicit OnCpu(bool last) {
    sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
      if (!CPU_ISSET(cpu, &before_)) continue;
      if (last) CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      if (!last) break;
    }
    sched_setaffinity(0, sizeof one, &one);
  }
  ~OnCpu() { sched_setaffinity(0, sizeof before_, &before_); }
  OnCpu(const OnCpu&) = delete;
  OnCpu& operator=(const OnCpu&) = delete;

 private:
  cpu_set_t before_;
};

// Seconds per round; the first tenth, in which pages find their place, does not count.
double play(std::atomic<int>& flag, int rounds) {
  double start = 0;
  const int warm_up = rounds / 10;
  for (int round = 0; round < rounds; round++) {
    if (round == warm_up) start = now();
    flag.store(2 * round + 1, std::memory_order_release);
    await(flag, 2 * round + 2);
  }
  return (now() - start) / (rounds - warm_up);
}

}  // namespace

void add_ping_pong_benchmarks(const Setup& setup) {
  const int rounds = setup.scaled(10'000, 2'000);
  if (setup.mirrorcl != nullptr) {
    setup.add("ping_pong/mirrorcl", benchmark::kMicrosecond, [&device = *setup.mirrorcl, rounds]() -> Measurement {
      auto flag = std::make_unique<std::atomic<int>>(0);
      auto count = std::make_unique<int>(rounds);
      cl_kernel kernel = device.kernel(kSource, "answer");
      device.set_pointers(kernel, {flag.get(), count.get()});
      device.enqueue(kernel, {1, 1});
      check(clFlush(device.queue()), "clFlush");
      const double seconds = play(*flag, rounds);
      device.finish();
      return {seconds};
    });
  }
  setup.add("ping_pong/threads", benchmark::kMicrosecond, [rounds]() -> Measurement {
    auto flag = std::make_unique<std::atomic<int>>(0);
    std::jthread other([&flag = *flag, rounds] {
      const OnCpu last(true);
      for (int round = 0; round < rounds; round++) {
        await(flag, 2 * round + 1);
        flag.store(2 * round + 2, std::memory_order_release);
      }
    });
    const OnCpu first(false);
    return {play(*flag, rounds)};
  });
  setup.report.add_row({"ping-pong over a malloc'd flag, a round / two threads", "ping_pong/mirrorcl",
                        "ping_pong/threads", Row::Unit::kMicroseconds});
}

}  // namespace mirrorcl::bench
