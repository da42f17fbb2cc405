// SPDX-License-Identifier: Apache-2.0
// A process that works while its memory is taken away all the time: threads with their stacks, mutexes and condition
// variables, signals, system calls, allocations, threads that begin and end, robust mutexes, forks.
#include "mirror/evacuation.h"

#include <signal.h>
#include <sys/wait.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <vector>

#include "base/running_time.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

// The fake device only keeps what it is given: an access of the test to it would hold its lock over faults of the
// test's own stack. What devices do meanwhile is shown by the examples under MIRRORCL_EVACUATE=1.
class EvacuationTest : public MirrorTest {
 protected:
  void SetUp() override {
    SKIP_UNDER_THREAD_SANITIZER();
    MirrorTest::SetUp();
  }
  // Runs `work` in some threads until three seconds have passed and the process was swept at least ten times, and pages
  // have gone and come back; longer where the machine hardly lets it run.
  template <typename Work>
  void run(unsigned threads, Work work) {
    DeviceOperations* devices[] = {&device_};
    Evacuation evacuation(*mirror_, devices);
    std::atomic<bool> stop{false};
    std::vector<std::thread> workers;
    for (unsigned i = 0; i < threads; ++i) {
      workers.emplace_back([&, i] {
        while (!stop) work(i);
      });
    }
    constexpr std::uint64_t kEnough = 100;
    RunningTime time;
    const auto lasts = [&](int seconds) { return time.is_within(std::chrono::seconds(seconds)); };
    const auto has_worked = [&] {
      const Statistics now = statistics();
      return evacuation.sweeps() >= 10 && now.pages_to_device > kEnough && now.cpu_faults > kEnough;
    };
    while (lasts(3) || (!has_worked() && lasts(60))) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    stop = true;
    for (auto& worker : workers) worker.join();
    EXPECT_GE(evacuation.sweeps(), 10U);
    EXPECT_GT(statistics().pages_to_device, kEnough);
    EXPECT_GT(statistics().cpu_faults, kEnough);
  }
};

TEST_F(EvacuationTest, HeapAndStacks) {
  std::atomic<std::uint64_t> wrong{0};
  run(3, [&](unsigned thread) {
    volatile std::uint64_t deep[2000];
    for (std::uint64_t i = 0; i < 2000; ++i) deep[i] = i + thread;
    std::map<std::uint64_t, std::string> map;
    for (std::uint64_t i = 0; i < 200; ++i) map[i * 7919 % 1009] = std::string(i, 'x');
    for (std::uint64_t i = 0; i < 200; ++i) wrong += map[i * 7919 % 1009].size() != i;
    for (std::uint64_t i = 0; i < 2000; ++i) wrong += deep[i] != i + thread;
  });
  EXPECT_EQ(wrong, 0U);
}

TEST_F(EvacuationTest, MutexesAndConditionVariables) {
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t turn = 0;
  };
  auto shared = std::make_unique<Shared>();
  run(3, [&](unsigned thread) {
    std::unique_lock lock(shared->mutex);
    shared->changed.wait_for(lock, std::chrono::milliseconds(20), [&] { return shared->turn % 3 == thread; });
    if (shared->turn % 3 == thread) ++shared->turn;
    shared->changed.notify_all();
  });
  EXPECT_GT(shared->turn, 3U);
}

TEST_F(EvacuationTest, ThreadsThatBeginAndEnd) {
  std::atomic<std::uint64_t> ended{0};
  run(2, [&](unsigned) {
    std::uint64_t result = 0;
    std::thread([&] {
      static thread_local std::uint64_t local = 0;
      result = ++local;
    }).join();
    ended += result;
  });
  EXPECT_GT(ended, 10U);
}

std::atomic<std::uint64_t> g_signals{0};

TEST_F(EvacuationTest, SignalFrames) {
  struct sigaction action {};
  action.sa_handler = [](int) {
    volatile char frame[3000];
    for (volatile char& byte : frame) byte = 1;
    ++g_signals;
  };
  struct sigaction before {};
  sigaction(SIGUSR1, &action, &before);
  run(2, [&](unsigned) {
    for (int i = 0; i < 50; ++i) pthread_kill(pthread_self(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  });
  sigaction(SIGUSR1, &before, nullptr);
  EXPECT_GT(g_signals, 100U);
}

TEST_F(EvacuationTest, SystemCalls) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  std::atomic<std::uint64_t> wrong{0};
  run(1, [&](unsigned) {
    std::vector<char> out(20000, 'a');
    std::vector<char> in(20000);
    wrong += write(ends[1], out.data(), out.size()) != 20000;
    wrong += read(ends[0], in.data(), in.size()) != 20000;
    wrong += in != out;
  });
  close(ends[0]);
  close(ends[1]);
  EXPECT_EQ(wrong, 0U);
}

TEST_F(EvacuationTest, Forks) {
  std::atomic<std::uint64_t> wrong{0};
  run(1, [&](unsigned) {
    std::vector<char> data(20000, 'a');
    pid_t child = fork();
    if (child == 0) _exit(data == std::vector<char>(20000, 'a') ? 0 : 1);
    int status = 0;
    wrong += waitpid(child, &status, 0) != child || status != 0;
  });
  EXPECT_EQ(wrong, 0U);
}

}  // namespace
}  // namespace mirrorcl::mirror
