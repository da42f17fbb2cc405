// SPDX-License-Identifier: Apache-2.0
// One std::atomic<int> on the heap, incremented by CPU threads and by a running kernel at the same time; then a game of
// ping-pong over it, in which kernel and host wait for each other 10,000 times while the kernel runs.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "examples/opencl.h"

namespace {

// OpenCL's atomics and C++'s name the same orders and, at this scope, mean the same memory.
const char* const kSource = R"(
  kernel void count(global atomic_int* counter, global int* times) {
    for (int i = 0; i < *times; i++) {
      atomic_fetch_add_explicit(counter, 1, memory_order_relaxed, memory_scope_all_svm_devices);
    }
  }
  // Waits for 1, 3, 5, ... and answers with 2, 4, 6, ... Gives up after max_spins looks at the same value.
  kernel void answer(global atomic_int* ball, global int* rounds, global long* max_spins) {
    for (int round = 0; round < *rounds; round++) {
      long spins = 0;
      while (atomic_load_explicit(ball, memory_order_acquire, memory_scope_all_svm_devices) != 2 * round + 1) {
        if (++spins == *max_spins) return;
      }
      atomic_store_explicit(ball, 2 * round + 2, memory_order_release, memory_scope_all_svm_devices);
    }
  })";

constexpr int kThreads = 3;
constexpr int kWorkItems = 64;
constexpr std::chrono::seconds kPatience{20};  // without any answer

void count_together(example::OpenCl& cl) {
  cl_kernel kernel = example::build_kernel(cl, kSource, "count");
  auto counter = std::make_unique<std::atomic<int>>(0);
  auto times = std::make_unique<int>(20'000);
  const int per_thread = 500'000;

  example::launch(cl, kernel, kWorkItems, {counter.get(), times.get()});
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  while (*counter == 0) {  // so that the threads do not finish before the kernel begins
    example::expect(std::chrono::steady_clock::now() < give_up, "the kernel does not count");
    std::this_thread::yield();
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++) {
    threads.emplace_back([&] {
      for (int n = 0; n < per_thread; n++) counter->fetch_add(1, std::memory_order_relaxed);
    });
  }
  for (std::thread& thread : threads) thread.join();
  example::check(clFinish(cl.queue), "clFinish");

  const int expected = kThreads * per_thread + kWorkItems * *times;
  std::printf("%d CPU threads and %d work-items incremented one std::atomic<int> together: %d of %d.\n", kThreads,
              kWorkItems, counter->load(), expected);
  example::expect(*counter == expected, "increments were lost");
  clReleaseKernel(kernel);
}

void play_ping_pong(example::OpenCl& cl) {
  cl_kernel kernel = example::build_kernel(cl, kSource, "answer");
  auto ball = std::make_unique<std::atomic<int>>(0);
  auto rounds = std::make_unique<int>(10'000);
  auto max_spins = std::make_unique<cl_long>(10'000'000'000);  // some ten seconds or more

  example::launch(cl, kernel, 1, {ball.get(), rounds.get(), max_spins.get()});
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < *rounds; round++) {
    ball->store(2 * round + 1, std::memory_order_release);
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    for (int spins = 1; ball->load(std::memory_order_acquire) != 2 * round + 2; spins++) {
      if (spins % 1024 != 0) continue;
      example::expect(std::chrono::steady_clock::now() < give_up, "the kernel does not answer");
      std::this_thread::yield();  // the kernel may need this very CPU
    }
  }
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  example::check(clFinish(cl.queue), "clFinish");
  example::expect(*ball == 2 * *rounds, "the last ball");
  std::printf("The host and a running kernel waited for each other %d times over one flag: %.2f us a round.\n", *rounds,
              took.count() / *rounds);
  clReleaseKernel(kernel);
}

}  // namespace

int main() {
  example::OpenCl cl = example::open_mirrorcl();
  count_together(cl);
  play_ping_pong(cl);
  clReleaseCommandQueue(cl.queue);
  clReleaseContext(cl.context);
  return 0;
}
