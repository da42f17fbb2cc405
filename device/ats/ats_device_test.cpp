// SPDX-License-Identifier: Apache-2.0
// Units in the application's own memory: every pointer is valid by itself, what a kernel does wrong stays with its
// event, and neither side's end harms the other's.
#include "device/ats/ats_device.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>

#include "device/cpu/cpu_device_fixture.h"
#include "device/cpu/test_processes.h"

namespace mirrorcl::device {
namespace {

std::uint64_t g_writable = 11;
const std::uint64_t kConstant = 12;

std::atomic<int> g_handled_signals{0};
void count_signal(int) {
  if (++g_handled_signals > 100) std::abort();  // a fault of the test itself, over and over
}

class AtsDevice : public CpuDeviceTest {
 protected:
  // The application's handlers must never see what kernels do.
  void SetUp() override {
    for (int number : kFaults) {
      struct sigaction action {};
      action.sa_handler = count_signal;
      sigaction(number, &action, &before_[number]);
    }
    g_handled_signals = 0;
    ASSERT_NO_FATAL_FAILURE(CpuDeviceTest::SetUp());
    out_ = std::make_unique<std::uint64_t>(0);
  }
  void TearDown() override {
    EXPECT_EQ(g_handled_signals.load(), 0) << "a kernel's fault came to the application";
    for (int number : kFaults) sigaction(number, &before_[number], nullptr);
  }
  Result<std::unique_ptr<CpuDevice>> start_device(const CpuDeviceOptions& options) override {
    return start_ats_device(options);
  }

  void expect_failure(TestKernel* kernel, std::initializer_list<TestArgument> list, FaultKind kind) {
    EXPECT_EQ(run(kernel, list), kStatusKernelFailed);
    EXPECT_EQ(last_error_.kind, kind) << fault_kind_name(last_error_.kind);
    const SignalError error = last_error_;
    const int process = device_->process_id();
    EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
    EXPECT_EQ(device_->process_id(), process);
    last_error_ = error;
  }
  std::uint64_t read(const void* address) {
    *out_ = ~std::uint64_t{0};
    EXPECT_EQ(run(kernel_read, {address, out_.get()}), kStatusComplete);
    return *out_;
  }

  static constexpr int kFaults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGUSR1};
  struct sigaction before_[65]{};
  std::unique_ptr<std::uint64_t> out_;
};

TEST_F(AtsDevice, SaysThatItSharesPageTables) {
  const mirror::DeviceCapabilities capabilities = device_->capabilities();
  EXPECT_TRUE(capabilities.shares_page_tables);
  EXPECT_TRUE(capabilities.native_atomics);
  EXPECT_EQ(device_->memory_fd(), -1);
  EXPECT_EQ(device_->fault_fd(), -1);
}

TEST_F(AtsDevice, EveryPointerOfTheApplicationIsValid) {
  auto heap = std::make_unique<std::uint64_t>(10);
  std::uint64_t stack = 13;
  static thread_local std::uint64_t of_thread = 14;
  of_thread = 14;
  EXPECT_EQ(read(heap.get()), 10U);
  EXPECT_EQ(read(&g_writable), 11U);
  EXPECT_EQ(read(&kConstant), 12U);
  EXPECT_EQ(read(&stack), 13U);
  EXPECT_EQ(read(&of_thread), 14U);
  for (std::uint64_t* place : {heap.get(), &g_writable, &stack, &of_thread}) {
    ASSERT_EQ(run(kernel_write, {place, 77U}), kStatusComplete);
    EXPECT_EQ(*place, 77U);
  }
  g_writable = 11;
}

TEST_F(AtsDevice, MappingsChangeUnderItAtOnce) {
  constexpr std::size_t kSize = 1 << 20;
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  for (std::uint64_t round = 1; round < 50; ++round) {
    auto* word = static_cast<std::uint64_t*>(memory) + 1000;
    *word = round;
    EXPECT_EQ(read(word), round);
    ASSERT_EQ(munmap(memory, kSize), 0);
    expect_failure(kernel_read, {word, out_.get()}, FaultKind::kInvalidAddress);
    EXPECT_EQ(last_error_.address, reinterpret_cast<std::uint64_t>(word));
    ASSERT_EQ(mmap(memory, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), memory);
    EXPECT_EQ(read(word), 0U);
  }
  munmap(memory, kSize);
}

TEST_F(AtsDevice, UnitsShareADispatch) {
  std::vector<std::uint32_t> counts(10'000, 0);
  const std::uint64_t sizes[6] = {10'000, 1, 1, 0, 0, 0};
  Grid grid = Grid::of_groups(1000);
  grid.local[0] = 10;
  ASSERT_EQ(run(kernel_count_items, {counts.data(), sizes}, grid), kStatusComplete);
  for (std::uint32_t count : counts) ASSERT_EQ(count, 1U);
}

TEST_F(AtsDevice, WildPointersFail) {
  for (std::uint64_t address : {0ULL, 0xff0ULL, 0x12345678ULL, 0x5555'5555'5008ULL, 0x8000'0000'0000ULL,
                                0xdead'beef'dead'beefULL, 0xffff'ffff'8000'0000ULL, 0x7fff'ffff'f000ULL}) {
    expect_failure(kernel_read, {address, out_.get()}, FaultKind::kInvalidAddress);
    EXPECT_EQ(last_error_.address, address);
    EXPECT_TRUE(window::kCode.contains(last_error_.instruction));
    expect_failure(kernel_write, {address, 1U}, FaultKind::kInvalidAddress);
    EXPECT_EQ(last_error_.address, address);
  }
}

TEST_F(AtsDevice, ReadOnlyMemoryCannotBeWritten) {
  expect_failure(kernel_write, {&kConstant, 5U}, FaultKind::kReadOnly);
  EXPECT_EQ(last_error_.address, reinterpret_cast<std::uint64_t>(&kConstant));
  EXPECT_EQ(read(&kConstant), 12U);
  // Nor can a kernel change instructions, its own or the firmware's.
  expect_failure(kernel_write, {entry(kernel_empty), 5U}, FaultKind::kReadOnly);
  expect_failure(kernel_write, {device_->firmware_symbol("memcpy"), 5U}, FaultKind::kReadOnly);
}

TEST_F(AtsDevice, AFileThatEndsBeforeItsMappingFails) {
  int fd = memfd_create("short", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  void* memory = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(memory, MAP_FAILED);
  expect_failure(kernel_read, {memory, out_.get()}, FaultKind::kInvalidAddress);
  munmap(memory, 4096);
  close(fd);
}

TEST_F(AtsDevice, FaultyInstructionsFail) {
  expect_failure(kernel_divide, {7U, 0U, out_.get()}, FaultKind::kIntegerDivide);
  expect_failure(kernel_trap, {}, FaultKind::kTrap);
  expect_failure(kernel_breakpoint, {}, FaultKind::kTrap);
  expect_failure(kernel_illegal, {}, FaultKind::kIllegalInstruction);
  expect_failure(kernel_privileged, {}, FaultKind::kIllegalInstruction);
  expect_failure(kernel_recurse, {}, FaultKind::kStackOverflow);
  expect_failure(kernel_jump, {0ULL}, FaultKind::kInvalidAddress);
  expect_failure(kernel_jump, {out_.get()}, FaultKind::kInvalidAddress);  // data is not code
  const std::uint64_t odd = reinterpret_cast<std::uint64_t>(out_.get()) + 4;
  expect_failure(kernel_misaligned, {odd}, FaultKind::kMisaligned);
}

TEST_F(AtsDevice, NoSystemCallIsAllowedFromAKernel) {
  for (std::uint64_t number : {SYS_getpid, SYS_write, SYS_exit, SYS_exit_group, SYS_futex, SYS_munmap, SYS_mmap,
                               SYS_clock_gettime, SYS_kill}) {
    expect_failure(kernel_system_call, {number}, FaultKind::kForbiddenCall);
  }
}

TEST_F(AtsDevice, AnEndlessKernelCanBeAborted) {
  auto flag = std::make_unique<std::uint32_t>(0);
  Signal* signal = launch(kernel_spin, {flag.get()}, Grid::of_groups(100));
  await_running(signal);
  EXPECT_EQ(device_->abort(signal, kPatience), kStatusKernelFailed);
  EXPECT_EQ(signal->error.kind, FaultKind::kAborted);
  EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
}

TEST_F(AtsDevice, NothingInTheWindowIsBothWritableAndExecutable) {
  std::ifstream maps("/proc/self/maps");
  int executable = 0;
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::uint64_t start = 0;
    char dash = 0;
    std::uint64_t end = 0;
    std::string mode;
    words >> std::hex >> start >> dash >> end >> mode;
    if (!window::kWindow.contains(start)) continue;
    EXPECT_FALSE(mode[1] == 'w' && mode[2] == 'x') << line;
    if (mode[2] == 'x') ++executable;
  }
  EXPECT_EQ(executable, 2) << "the firmware's text, and the loaded kernels";
}

TEST_F(AtsDevice, FreedCodeSpaceIsWritableAndZeroAgain) {
  constexpr std::size_t kSize = 64 * 1024;
  auto* code = static_cast<char*>(device_->allocate_code(kSize));
  ASSERT_NE(code, nullptr);
  std::memset(code, 0xcc, kSize);
  ASSERT_TRUE(device_->make_executable(code, kSize));
  device_->free_code(code);
  auto* again = static_cast<char*>(device_->allocate_code(kSize));
  ASSERT_EQ(again, code);
  for (std::size_t i = 0; i < kSize; ++i) ASSERT_EQ(again[i], 0);
  std::memset(again, 1, kSize);
  device_->free_code(again);
}

TEST_F(AtsDevice, TheApplicationIsWhatItWas) {
  EXPECT_EQ(prctl(PR_GET_DUMPABLE), 1) << "a debugger could not attach any more, and no core be dumped";
  EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
  EXPECT_EQ(prctl(PR_GET_SECCOMP), 0);
  errno = 0;
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(AtsDevice, HoldsNoFileOfTheApplication) {
  EXPECT_EQ(files_held_by(device_->process_id()), std::set<std::string>());
}

TEST_F(AtsDevice, KilledInTheMiddleItFailsItsCommandsAndRestarts) {
  auto flag = std::make_unique<std::uint32_t>(0);
  for (int round = 0; round < 3; ++round) {
    Signal* running = launch(kernel_spin, {flag.get()}, Grid::of_groups(100));
    Signal* waiting = launch(kernel_empty, {});
    await_running(running);
    const int old = device_->process_id();
    kill_device();
    EXPECT_EQ(device_->wait(running, kPatience), kStatusDeviceLost);
    EXPECT_EQ(device_->wait(waiting, kPatience), kStatusDeviceLost);
    EXPECT_TRUE(has_ended(old));
    EXPECT_TRUE(device_->lost());
    EXPECT_EQ(run(kernel_empty, {}), kStatusDeviceLost);
    auto restarted = device_->restart();
    ASSERT_TRUE(restarted) << restarted.error().message;
    EXPECT_NE(device_->process_id(), old);
    EXPECT_EQ(read(&kConstant), 12U);
  }
}

TEST_F(AtsDevice, DyingWhileACommandEndsItFailsThatOneAndNoLaterOneOfTheSameSignal) {
  die_while_signals_are_finished();
}

TEST_F(AtsDevice, SurvivesManyDeathsUnderSubmission) {
  for (int round = 0; round < 10; ++round) {
    die_under_submission();
    EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
  }
}

TEST_F(AtsDevice, AForkedChildHasACopyAndNoDeviceWhileKernelsRunOn) {
  auto flag = std::make_unique<std::uint32_t>(0);
  std::vector<std::uint32_t> counts(1000, 0);
  const std::uint64_t sizes[6] = {1000, 1, 1, 0, 0, 0};
  Signal* running = launch(kernel_spin, {flag.get()});
  await_running(running);
  int child = fork();
  if (child == 0) {
    *flag = 1;  // the child's own
    bool ok = device_->lost() && !device_->restart() && running->load_status() == kStatusComplete;
    device_.reset();
    _exit(ok ? 0 : 1);
  }
  expect_success(child);
  EXPECT_EQ(running->load_status(), kStatusRunning);
  *flag = 1;
  EXPECT_EQ(device_->wait(running, kPatience), kStatusComplete);
  ASSERT_EQ(run(kernel_count_items, {counts.data(), sizes}, Grid::of_groups(1000)), kStatusComplete);
  for (std::uint32_t count : counts) ASSERT_EQ(count, 1U);
}

TEST_F(AtsDevice, GoesWithItsObjectAndLeavesNothing) {
  int first = device_->process_id();
  device_.reset();
  EXPECT_TRUE(has_ended(first));
  int files = count_open_files();
  for (int i = 0; i < 3; ++i) {
    auto device = start_ats_device({});
    ASSERT_TRUE(device) << device.error().message;
    EXPECT_FALSE(start_ats_device({})) << "the window holds one device";
    EXPECT_FALSE(CpuDevice::start({}));
    int pid = (*device)->process_id();
    device->reset();
    EXPECT_TRUE(has_ended(pid));
    // The other kind finds the window as it needs it.
    auto mirrored = CpuDevice::start({});
    EXPECT_TRUE(mirrored || mirrored.error().code == ErrorCode::kNotSupported) << mirrored.error().message;
  }
  EXPECT_EQ(count_open_files(), files);
}

TEST_F(AtsDevice, SharesTheWindowWithNoOther) {
  for (const bool ats : {false, true}) {
    auto second = ats ? start_ats_device({}) : CpuDevice::start({});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, ErrorCode::kNotSupported);
  }
  EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
  device_.reset();
  auto mirrored = CpuDevice::start({});
  if (!mirrored) GTEST_SKIP() << mirrored.error().message;
  EXPECT_FALSE(start_ats_device({}));
  EXPECT_FALSE((*mirrored)->lost());
}

TEST_F(AtsDevice, SaysThatTheFirmwareIsMissingOrIsNone) {
  device_.reset();
  CpuDeviceOptions options;
  options.firmware = "/nonexistent/mirrorcl-firmware";
  auto missing = start_ats_device(options);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotSupported);
  EXPECT_NE(missing.error().message.find("is missing"), std::string::npos) << missing.error().message;
  options.firmware = "/bin/true";
  auto other = start_ats_device(options);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::kNotSupported);
  EXPECT_NE(other.error().message.find("is not the device firmware"), std::string::npos) << other.error().message;
  EXPECT_TRUE(start_ats_device({}));
}

// An application of its own, which starts the device and spins in a kernel that never ends.
void run_for_ever(int announce) {
  static auto device = announce_device(announce, start_ats_device({}));
  auto queue = device->create_queue();
  auto signal = device->create_signal();
  const auto size = static_cast<std::size_t>(__stop_kernels - __start_kernels);
  auto* code = static_cast<char*>(device->allocate_code(size));
  std::memcpy(code, __start_kernels, size);
  auto* block = static_cast<char*>(device->allocate(4096));
  auto* arguments = new (block) ArgumentBlock{1, 4096};
  arguments->arguments()[0] = {Argument::Kind::kValue, 256, 0};
  static std::uint32_t flag = 0;
  std::uint32_t* pointer = &flag;
  std::memcpy(block + 256, &pointer, sizeof pointer);
  Packet packet{};
  packet.code = reinterpret_cast<std::uint64_t>(code) +
                static_cast<std::uint64_t>(reinterpret_cast<const char*>(kernel_spin) - __start_kernels);
  packet.arguments = arguments;
  packet.signal = *signal;
  for (int d = 0; d < 3; ++d) packet.num_groups[d] = packet.local_size[d] = packet.last_local_size[d] = 1;
  packet.num_groups[0] = 100;
  packet.work_dim = 1;
  if (!device->make_executable(code, size) || !device->submit(*queue, packet)) _exit(3);
  while ((*signal)->load_status() != kStatusRunning) usleep(1000);
}

TEST(AtsApplication, KilledItTakesItsUnitsAlong) {
  int device = -1;
  int application = fork_application(&device, [](int announce) {
    run_for_ever(announce);
    pause();
  });
  usleep(100'000);
  EXPECT_TRUE(is_running(device));
  kill_and_reap(application);
  EXPECT_TRUE(has_ended(device));
}

TEST(AtsApplication, EndingOrExecutingAnotherProgramOrCrashingItTakesItsUnitsAlong) {
  for (int way = 0; way < 3; ++way) {
    int device = -1;
    int application = fork_application(&device, way == 0 ? [](int announce) {
      run_for_ever(announce);
      execl("/bin/sleep", "sleep", "20", nullptr);
    } : way == 1 ? [](int announce) {
      run_for_ever(announce);
      _exit(0);
    } : [](int announce) {
      rlimit none{0, 0};
      setrlimit(RLIMIT_CORE, &none);
      run_for_ever(announce);
      signal(SIGSEGV, SIG_DFL);
      raise(SIGSEGV);
    });
    EXPECT_TRUE(has_ended(device)) << way;
    kill_and_reap(application);
  }
}

TEST(AtsApplication, ATerminalsSignalsDoNotReachTheUnits) {
  int device = -1;
  int application = fork_application(&device, [](int announce) {
    setpgid(0, 0);
    signal(SIGINT, SIG_IGN);
    run_for_ever(announce);
    pause();
  });
  usleep(100'000);
  kill(-application, SIGINT);
  kill(device, SIGTERM);
  usleep(50'000);
  EXPECT_TRUE(is_running(device));
  kill_and_reap(application);
  EXPECT_TRUE(has_ended(device));
}

}  // namespace
}  // namespace mirrorcl::device
