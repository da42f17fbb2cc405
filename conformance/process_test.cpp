// SPDX-License-Identifier: Apache-2.0
// Processes around the application: children made by fork, system and popen while a device has the application's pages,
// the end of the application, and the sudden end of the device. OpenCL leaves child processes to the system; here they
// behave as if no device had ever had the memory.
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "conformance/child.h"
#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

using std::chrono::seconds;

class Processes : public SystemMemoryTest {
 protected:
  void SetUp() override {
    SystemMemoryTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    fill_ = build(
        "kernel void fill(global int *data, int first) { data[get_global_id(0)] = first + (int)get_global_id(0); }",
        "fill");
    ASSERT_TRUE(fill_);
  }
  void TearDown() override {
    fill_ = {};
    SystemMemoryTest::TearDown();
  }
  static bool holds_series(const int* data, std::size_t count, int first) {
    for (std::size_t i = 0; i < count; ++i) {
      if (data[i] != first + static_cast<int>(i)) return false;
    }
    return true;
  }
  static int exit_code_of(pid_t child) {
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  Kernel fill_;
};

constexpr std::size_t kCount = 10'000;

TEST_F(Processes, ForkedChildSeesWhatTheDeviceWroteAndHasItsOwnCopy) {
  std::vector<int> data(kCount);
  for (int round = 0; round < 3; ++round) {
    run(fill_, kCount, data.data(), 10 * round);
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      bool good = holds_series(data.data(), kCount, 10 * round);
      data[0] = 12345;  // the child's own
      std::fill(data.begin(), data.end(), 1);
      _exit(good && data[kCount - 1] == 1 ? 0 : 1);
    }
    run(fill_, kCount, data.data(), 10 * round + 1);  // while the child looks at its copy
    EXPECT_EQ(exit_code_of(child), 0) << "round " << round;
    EXPECT_TRUE(holds_series(data.data(), kCount, 10 * round + 1));
    run(fill_, kCount, data.data(), 7);
    EXPECT_TRUE(holds_series(data.data(), kCount, 7));
  }
}

TEST_F(Processes, ForkWhilePagesAreSharedByHostAndDevice) {
  std::vector<int> data(kCount);
  for (int turn = 0; turn < 30; ++turn) {
    run(fill_, kCount, data.data(), turn);
    ASSERT_EQ(data[0], turn);
    data[0] = -1;
  }
  int* svm = static_cast<int*>(clSVMAlloc(context(), CL_MEM_READ_WRITE | CL_MEM_SVM_FINE_GRAIN_BUFFER, kPage, 0));
  ASSERT_NE(svm, nullptr);
  svm[0] = 3;
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    bool good = data[0] == -1 && holds_series(data.data() + 1, kCount - 1, 30);
    data[5] = 99;
    _exit(good ? 0 : 1);
  }
  EXPECT_EQ(exit_code_of(child), 0);
  EXPECT_EQ(data[5], 34);
  run(fill_, kCount, data.data(), 2);
  EXPECT_TRUE(holds_series(data.data(), kCount, 2));
  EXPECT_EQ(svm[0], 3);
  clSVMFree(context(), svm);
}

TEST_F(Processes, ForkFromAnotherThreadWhileAKernelRuns) {
  Kernel kernel = build(R"(
kernel void count(global int *data, int passes) {
  for (int pass = 0; pass < passes; ++pass)
    for (int i = 0; i < 4096; ++i) data[i] += 1;
})",
                        "count");
  ASSERT_TRUE(kernel);
  std::vector<int> data(4096, 0);
  constexpr int kPasses = 30'000;
  Event event = launch(kernel, 1, data.data(), int{kPasses});
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  for (int i = 0; i < 5; ++i) {
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(data[0] >= 0 && data[0] <= kPasses ? 0 : 1);
    EXPECT_EQ(exit_code_of(child), 0);
  }
  expect_complete(event);
  for (int word : data) ASSERT_EQ(word, kPasses);
}

TEST_F(Processes, SystemAndPopenWithCommandsInDeviceOwnedMemory) {
  auto* command = static_cast<char*>(std::calloc(1, 64));
  Kernel kernel = build(R"(
kernel void write_command(global char *to) {
  const char text[] = "test 6 = 6 && echo from-the-device";
  for (int i = 0; i < sizeof text; ++i) to[i] = text[i];
})",
                        "write_command");
  ASSERT_TRUE(kernel);
  std::vector<int> data(kCount);
  run(fill_, kCount, data.data(), 1);
  run(kernel, 1, command);
  FILE* pipe = popen(command, "r");  // NOLINT(cert-env33-c)
  ASSERT_NE(pipe, nullptr);
  char line[64] = "";
  EXPECT_NE(std::fgets(line, sizeof line, pipe), nullptr);
  EXPECT_STREQ(line, "from-the-device\n");
  EXPECT_EQ(pclose(pipe), 0);
  run(kernel, 1, command);
  EXPECT_EQ(std::system("exit 3"), 3 << 8);  // NOLINT(cert-env33-c)
  EXPECT_TRUE(holds_series(data.data(), kCount, 1));
  run(fill_, kCount, data.data(), 2);
  EXPECT_TRUE(holds_series(data.data(), kCount, 2));
  std::free(command);
}

TEST_F(Processes, ProgramsStartedByVforkReadTheirArgumentsFromDeviceOwnedMemory) {
  // "/bin/sh", "-c", "exit 42" and the array of pointers to them, one page each.
  auto* memory = static_cast<char*>(std::aligned_alloc(kPage, 4 * kPage));
  Kernel kernel = build(R"(
void copy(global char *to, constant char *from) { while ((*to++ = *from++)) {} }
kernel void write_arguments(global char *memory) {
  copy(memory, "/bin/sh");
  copy(memory + 4096, "-c");
  copy(memory + 2 * 4096, "exit 42");
  global ulong *pointers = (global ulong *)(memory + 3 * 4096);
  for (int i = 0; i < 3; ++i) pointers[i] = (ulong)(memory + i * 4096);
  pointers[3] = 0;
})",
                        "write_arguments");
  ASSERT_TRUE(kernel);
  std::vector<int> data(kCount);
  for (int round = 0; round < 4; ++round) {
    run(fill_, kCount, data.data(), round);
    run(kernel, 1, memory);
    auto** arguments = reinterpret_cast<char**>(memory + 3 * kPage);
    const pid_t child = vfork();  // NOLINT(clang-analyzer-security.insecureAPI.vfork): what is under test
    if (child == 0) {
      execv(memory, arguments);
      _exit(1);
    }
    ASSERT_GT(child, 0);
    EXPECT_EQ(exit_code_of(child), 42) << "round " << round;
    run(kernel, 1, memory);
    pid_t spawned = -1;
    ASSERT_EQ(posix_spawn(&spawned, memory, nullptr, nullptr, arguments, environ), 0);
    EXPECT_EQ(exit_code_of(spawned), 42) << "round " << round;
    EXPECT_TRUE(holds_series(data.data(), kCount, round));
  }
  std::free(memory);
}

TEST_F(Processes, ThreadsEndWhileTheirStacksAreOnTheDevice) {
  struct Ending {
    std::function<void(int*, int)> fill;
    bool good = false;
  };
  for (int round = 0; round < 20; ++round) {
    Ending ending{[this](int* words, int first) { run(fill_, kCount, words, first); }};
    pthread_t thread;
    const auto body = [](void* argument) -> void* {
      auto* seen = static_cast<Ending*>(argument);
      int on_stack[kCount];
      seen->fill(on_stack, 7);
      seen->good = holds_series(on_stack, kCount, 7);
      seen->fill(on_stack, 8);
      pthread_exit(argument);
    };
    ASSERT_EQ(pthread_create(&thread, nullptr, body, &ending), 0);
    void* returned = nullptr;
    ASSERT_EQ(pthread_join(thread, &returned), 0);
    EXPECT_EQ(returned, &ending);
    EXPECT_TRUE(ending.good) << "round " << round;
  }
}

TEST_F(Processes, TheDeviceProcessIsNotTheApplicationsToWaitFor) {
  std::vector<int> data(kCount);
  run(fill_, kCount, data.data(), 1);
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(5);
  int status = 0;
  EXPECT_EQ(waitpid(-1, &status, 0), child) << "a process of the driver turned up in wait()";
  EXPECT_EQ(WEXITSTATUS(status), 5);
}

class DeviceProcess : public Processes {
 protected:
  void SetUp() override {
    Processes::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (!platform().is_mirrorcl) GTEST_SKIP() << platform().name << " has no device process";
    std::vector<int> data(16);
    run(fill_, data.size(), data.data(), 0);  // starts it
    devices_ = device_processes_of(getpid());
    // Those of a former test's end start again when they are used.
    ASSERT_TRUE(!devices_.empty() && devices_.size() <= platform().device_count)
        << "found by the window that it shares with this process";
  }
  void kill_device() {
    for (pid_t device : device_processes_of(getpid())) ::kill(device, SIGKILL);
  }
  std::set<pid_t> devices_;
};

TEST_F(DeviceProcess, KilledWhileIdle) {
  std::vector<int> data(kCount);
  run(fill_, kCount, data.data(), 100);
  kill_device();
  EXPECT_TRUE(holds_series(data.data(), kCount, 100)) << "what only device memory held was lost";
  ASSERT_TRUE(wait_until([&] { return std::ranges::all_of(devices_, process_is_gone); }, seconds(10)));
  // The loss may be noticed by the first launch, which then fails; from the second on all is well.
  Event first = launch(fill_, kCount, data.data(), 200);
  clFinish(queue());
  if (event_status(first) != CL_COMPLETE) run(fill_, kCount, data.data(), 200);
  EXPECT_TRUE(holds_series(data.data(), kCount, 200));
  std::set<pid_t> now = device_processes_of(getpid());
  EXPECT_EQ(now.size(), 1u) << "only the device that is used starts again";
  EXPECT_FALSE(devices_.contains(*now.begin()));
}

TEST_F(DeviceProcess, KilledInTheMiddleOfAKernel) {
  Kernel kernel = build(R"(
kernel void forever(global atomic_int *started, global volatile int *stop) {
  atomic_store_explicit(started, 1, memory_order_release, memory_scope_all_svm_devices);
  while (!*stop) {}
})",
                        "forever");
  ASSERT_TRUE(kernel);
  std::vector<int> owned(kCount);
  run(fill_, kCount, owned.data(), 300);  // stays on the device
  for (int round = 0; round < 3; ++round) {
    auto started = std::make_unique<std::atomic<int>>(0);
    auto stop = std::make_unique<int>(0);
    Event event = launch(kernel, 1, reinterpret_cast<int*>(started.get()), stop.get());
    ASSERT_CL(CL_SUCCESS, clFlush(queue()));
    ASSERT_TRUE(wait_until([&] { return started->load() == 1; }, seconds(20)));
    EXPECT_GE(event_status(event), CL_RUNNING);
    kill_device();
    cl_event handle = event.get();
    EXPECT_CL(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, clWaitForEvents(1, &handle));
    EXPECT_LT(event_status(event), 0);
    EXPECT_TRUE(holds_series(owned.data(), kCount, 300 + round)) << "round " << round;
    run(fill_, kCount, owned.data(), 301 + round);
  }
  EXPECT_TRUE(holds_series(owned.data(), kCount, 303));
}

TEST_F(DeviceProcess, SvmAndBufferContentsSurviveItsDeath) {
  int* svm = static_cast<int*>(clSVMAlloc(context(), CL_MEM_READ_WRITE, kCount * sizeof(int), 0));
  ASSERT_NE(svm, nullptr);
  Buffer buffer = make_buffer(CL_MEM_READ_WRITE, kCount * sizeof(int));
  run(fill_, kCount, svm, 1);
  run(fill_, kCount, buffer.get(), 2);
  kill_device();
  ASSERT_TRUE(wait_until([&] { return std::ranges::all_of(devices_, process_is_gone); }, seconds(10)));
  EXPECT_TRUE(holds_series(svm, kCount, 1));
  std::vector<int> copy(kCount);
  EXPECT_CL(CL_SUCCESS, clEnqueueReadBuffer(queue(), buffer.get(), CL_TRUE, 0, kCount * sizeof(int), copy.data(), 0,
                                            nullptr, nullptr));
  EXPECT_TRUE(holds_series(copy.data(), kCount, 2));
  std::vector<int> scratch(16);
  Event first = launch(fill_, 16, scratch.data(), 0);
  clFinish(queue());
  if (event_status(first) != CL_COMPLETE) run(fill_, 16, scratch.data(), 0);
  Kernel kernel = build(kAddIndex, "add_index");
  ASSERT_TRUE(kernel);
  run(kernel, kCount, svm, copy.data());
  EXPECT_TRUE(holds_series(copy.data(), kCount, 1));
  run(kernel, kCount, buffer.get(), copy.data());
  EXPECT_TRUE(holds_series(copy.data(), kCount, 2));
  clSVMFree(context(), svm);
}

std::set<pid_t> read_ids(const std::string& line) {
  std::set<pid_t> ids;
  std::size_t at = 0;
  while (at < line.size()) {
    std::size_t used = 0;
    ids.insert(std::stoi(line.substr(at), &used));
    at += used + 1;
  }
  return ids;
}

class ApplicationEnd : public Processes {
 protected:
  void SetUp() override {
    Processes::SetUp();
    if (!IsSkipped() && !platform().is_mirrorcl) GTEST_SKIP() << platform().name << " has no device process";
  }
  // Starts an application, lets it say which processes serve it, ends it with `end` and expects them to go.
  template <typename End>
  void expect_no_leftover(const std::string& name, End end) {
    ChildProcess application(name);
    std::string line = application.read_line(seconds(60));
    ASSERT_FALSE(line.empty()) << "the application did not start";
    std::set<pid_t> helpers = read_ids(line);
    EXPECT_FALSE(helpers.empty());
    for (pid_t helper : helpers) EXPECT_FALSE(process_is_gone(helper));
    end(application);
    for (pid_t helper : helpers) {
      EXPECT_TRUE(wait_until([&] { return process_is_gone(helper); }, seconds(10)))
          << "process " << helper << " lives on";
    }
  }
};

TEST_F(ApplicationEnd, KilledWhileAKernelRunsLeavesNoProcess) {
  expect_no_leftover("spin", [](ChildProcess& application) {
    application.kill();
    EXPECT_EQ(application.wait(seconds(10)), -SIGKILL);
  });
}

TEST_F(ApplicationEnd, ReturningFromMainLeavesNoProcess) {
  expect_no_leftover("idle", [](ChildProcess& application) {
    application.write_line("end");
    EXPECT_EQ(application.wait(seconds(20)), 0);
  });
}

TEST_F(ApplicationEnd, ExitWithoutReleasingAnythingWhileAKernelRuns) {
  expect_no_leftover("spin", [](ChildProcess& application) {
    application.write_line("end");
    EXPECT_EQ(application.wait(seconds(20)), 0);
  });
}

TEST_F(ApplicationEnd, AnotherProgramInItsPlaceHasNoDeviceAndIsNotDisturbed) {
  expect_no_leftover("replace", [](ChildProcess& application) {
    application.write_line("end");
    EXPECT_EQ(application.read_line(seconds(20)), "another program");
    EXPECT_EQ(application.wait(seconds(20)), 0);
  });
}

TEST_F(ApplicationEnd, SeveralApplicationsAtOnceDoNotDisturbEachOther) {
  ChildProcess one("idle"), two("idle");
  ASSERT_FALSE(one.read_line(seconds(60)).empty());
  ASSERT_FALSE(two.read_line(seconds(60)).empty());
  one.kill();
  one.wait(seconds(10));
  std::vector<int> data(kCount);
  run(fill_, kCount, data.data(), 4);
  EXPECT_TRUE(holds_series(data.data(), kCount, 4));
  two.write_line("end");
  EXPECT_EQ(two.wait(seconds(20)), 0);  // it runs one more kernel before it ends, and checks it
}

// --- the applications that the tests above start

class Application : public SystemMemoryTest {
 public:
  Application() { SystemMemoryTest::SetUp(); }
  ~Application() override { SystemMemoryTest::TearDown(); }
  void TestBody() override {}
  static void print_helpers() {
    std::set<pid_t> helpers = device_processes_of(getpid());
    helpers.merge(children_of(getpid()));
    for (pid_t helper : helpers) std::cout << helper << ' ';
    std::cout << std::endl;
  }
};

int idle_application() {
  Application application;
  Kernel kernel = application.build(kAddIndex, "add_index");
  std::vector<int> data(1000, 1), before(1000);
  application.run(kernel, data.size(), data.data(), before.data());
  Application::print_helpers();
  std::string line;
  std::getline(std::cin, line);
  application.run(kernel, data.size(), data.data(), before.data());
  return data[999] == 1 + 2 * 999 && before[999] == 1 + 999 ? 0 : 1;
}

int spinning_application() {
  // Leaves everything to the end of the process. Static pointers, so that a leak checker knows it is meant.
  static auto* application = new Application;
  static auto* kernel = new Kernel(application->build(
      "kernel void spin(global volatile int *stop, global volatile int *started) { *started = 1; while (!*stop) {} }",
      "spin"));
  static auto* words = new volatile int[2]{};
  static auto* event = new Event(application->launch(*kernel, 1, const_cast<int*>(words), const_cast<int*>(words + 1)));
  clFlush(application->queue());
  if (!*event || !wait_until([&] { return words[1] == 1; }, seconds(20))) return 1;
  Application::print_helpers();
  std::string line;
  std::getline(std::cin, line);
  return event_status(*event) == CL_RUNNING ? 0 : 2;
}

// Becomes another program while a kernel runs.
int replaced_application() {
  if (spinning_application() != 0) return 1;
  execl("/bin/echo", "echo", "another program", nullptr);
  return 3;
}

// Builds and runs one program and prints its answer; for the tests of the program cache.
int answering_application() {
  Application application;
  Kernel kernel = application.build("kernel void answer(global int *out) { *out = 6 * 7; }", "answer");
  auto value = std::make_unique<int>(0);
  application.run(kernel, 1, value.get());
  std::cout << *value << std::endl;
  return 0;
}

}  // namespace

int run_child(const std::string& name) {
  if (name == "idle") return idle_application();
  if (name == "spin") return spinning_application();
  if (name == "replace") return replaced_application();
  if (name == "answer") return answering_application();
  std::cerr << "no child is called " << name << "\n";
  return 127;
}

}  // namespace mirrorcl::conformance
