// SPDX-License-Identifier: Apache-2.0
// D's life and death, and A's.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <set>
#include <string>

#include "device/cpu/cpu_device_fixture.h"
#include "device/cpu/test_processes.h"

namespace mirrorcl::device {
namespace {

using mirror::Access;

class CpuDeviceProcess : public CpuDeviceTest {
 protected:
  static std::unique_ptr<CpuDevice> start_and_announce(int announce) {
    return announce_device(announce, CpuDevice::start({}));
  }
};

// Tests that fork an application of their own do not start a device in this process.
class CpuDeviceApplication : public CpuDeviceProcess {
 protected:
  void SetUp() override {}
};

TEST_F(CpuDeviceProcess, IsInvisibleToWait) {
  EXPECT_TRUE(is_running(device_->process_id()));
  errno = 0;
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(CpuDeviceProcess, GoesWithTheDeviceAndLeavesNoFileOpen) {
  int first = device_->process_id();
  device_.reset();
  EXPECT_TRUE(is_gone(first));
  int files = count_open_files();
  for (int i = 0; i < 3; ++i) {
    auto device = CpuDevice::start({});
    ASSERT_TRUE(device);
    int pid = (*device)->process_id();
    device->reset();
    EXPECT_TRUE(is_gone(pid));
  }
  EXPECT_EQ(count_open_files(), files);
}

TEST_F(CpuDeviceProcess, HoldsNoFileOfTheApplication) {
  const std::string process = "/proc/" + std::to_string(device_->process_id());
  if (access((process + "/fd").c_str(), R_OK) != 0) GTEST_SKIP() << "root alone sees it: the process is not dumpable";
  const std::string pagemap = process + "/pagemap";
  std::set<std::string> files = files_held_by(device_->process_id());
  // It has been sent, and is closed in a moment.
  for (int i = 0; i < 10'000 && files.contains(pagemap); ++i) {
    usleep(1000);
    files = files_held_by(device_->process_id());
  }
  for (const std::string& file : files) EXPECT_NE(file.find("userfaultfd"), std::string::npos) << file;
}

TEST_F(CpuDeviceProcess, KilledInTheMiddleItFailsItsCommandsAndRestarts) {
  static constexpr std::uint64_t kAddress = 0x3100'0000'0000;
  std::vector<std::uint64_t> page(window::kPageSize / 8, 0x77);
  ASSERT_EQ(device_->copy_in({kAddress, window::kPageSize}, page.data()), 0);
  ASSERT_TRUE(device_->share({kAddress + window::kMiB, window::kPageSize}));
  start_mirror([this](const mirror::DeviceFault& fault) {
    if (fault.address == kAddress) {
      EXPECT_EQ(device_->map({fault.address, window::kPageSize}, Access::kReadWrite), 0);
    } else {
      device_->fail(fault, FaultKind::kInvalidAddress);
    }
  });
  auto* flag = shared_array<std::uint32_t>(1);
  auto* out = shared_array<std::uint64_t>(1);
  Signal* running = launch(kernel_spin, {flag}, Grid::of_groups(100));
  Signal* waiting = launch(kernel_empty, {});
  EXPECT_EQ(device_->wait(running, 5'000'000), kStatusRunning);
  const int old = device_->process_id();
  kill_device();
  EXPECT_EQ(device_->wait(running, kPatience), kStatusDeviceLost);
  EXPECT_EQ(device_->wait(waiting, kPatience), kStatusDeviceLost);
  EXPECT_TRUE(is_gone(old));
  EXPECT_TRUE(device_->lost());
  // A launch on a lost device fails; calls on its page tables succeed, for they have gone too.
  EXPECT_EQ(run(kernel_empty, {}), kStatusDeviceLost);
  EXPECT_EQ(device_->map({kAddress, window::kPageSize}, Access::kReadWrite), 0);
  EXPECT_EQ(device_->protect({kAddress, window::kPageSize}, Access::kRead), 0);
  stop_mirror();

  auto restarted = device_->restart();
  ASSERT_TRUE(restarted) << restarted.error().message;
  EXPECT_FALSE(device_->lost());
  EXPECT_NE(device_->process_id(), old);
  start_mirror([this](const mirror::DeviceFault& fault) {
    EXPECT_EQ(fault.address, kAddress);
    EXPECT_EQ(device_->map({fault.address, window::kPageSize}, Access::kReadWrite), 0);
  });
  ASSERT_EQ(run(kernel_read, {kAddress, out}), kStatusComplete);
  EXPECT_EQ(*out, 0x77U);
  ASSERT_EQ(run(kernel_write, {kAddress + window::kMiB, 5U}), kStatusComplete);  // still shared
  const int now = device_->process_id();
  ASSERT_TRUE(device_->restart());
  EXPECT_EQ(device_->process_id(), now);
}

TEST_F(CpuDeviceProcess, DyingWhileACommandEndsItFailsThatOneAndNoLaterOneOfTheSameSignal) {
  die_while_signals_are_finished();
}

TEST_F(CpuDeviceProcess, SurvivesManyDeathsUnderSubmission) {
  start_mirror([](const mirror::DeviceFault&) {});
  for (int round = 0; round < 10; ++round) {
    die_under_submission();
    stop_mirror();
    EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
    start_mirror([](const mirror::DeviceFault&) {});
  }
}

TEST_F(CpuDeviceProcess, AForkedChildNeitherUsesNorDisturbsIt) {
  Signal* signal = new_signal();
  int child = fork();
  if (child == 0) {
    // Everything answers; nothing reaches D.
    bool ok = device_->lost() && !device_->restart() && signal->load_status() == kStatusComplete &&
              device_->wait(signal) == kStatusComplete;
    auto* block = device_->allocate(64);
    device_->free(block);
    device_.reset();
    _exit(ok ? 0 : 1);
  }
  expect_success(child);
  EXPECT_EQ(signal->load_status(), kStatusSubmitted);
  EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
}

TEST_F(CpuDeviceApplication, KilledItTakesItsDeviceAlong) {
  int device = -1;
  int application = fork_application(&device, [](int announce) {
    auto started = start_and_announce(announce);
    pause();
  });
  EXPECT_TRUE(is_running(device));
  kill_and_reap(application);
  EXPECT_TRUE(is_gone(device));
}

TEST_F(CpuDeviceApplication, KilledItTakesItsDeviceAlongAlsoIfAForkedChildLives) {
  int device = -1;
  int application = fork_application(&device, [](int announce) {
    auto started = start_and_announce(announce);
    if (fork() == 0) {
      close(STDOUT_FILENO);  // whoever collects the test's output need not wait for this one
      close(STDERR_FILENO);
      sleep(20);
      _exit(0);
    }
    pause();
  });
  kill_and_reap(application);
  EXPECT_TRUE(is_gone(device));
}

TEST_F(CpuDeviceApplication, EndingOrExecutingAnotherProgramItTakesItsDeviceAlong) {
  for (bool execute : {false, true}) {
    int device = -1;
    int application = fork_application(&device, execute ? [](int announce) {
      start_and_announce(announce).release();
      execl("/bin/sleep", "sleep", "20", nullptr);
    } : [](int announce) {
      start_and_announce(announce).release();
      exit(0);
    });
    EXPECT_TRUE(is_gone(device)) << execute;
    kill_and_reap(application);
  }
}

TEST_F(CpuDeviceApplication, AnInterruptedTerminalDoesNotTakeTheDeviceFirst) {
  int device = -1;
  int application = fork_application(&device, [](int announce) {
    setpgid(0, 0);
    signal(SIGINT, SIG_IGN);
    auto started = start_and_announce(announce);
    pause();
  });
  kill(-application, SIGINT);
  kill(device, SIGTERM);
  usleep(50'000);
  EXPECT_TRUE(is_running(device));
  kill_and_reap(application);
  EXPECT_TRUE(is_gone(device));
}

TEST_F(CpuDeviceApplication, SeveralAtOnceDoNotDisturbEachOther) {
  int devices[3];
  int applications[3];
  for (int i = 0; i < 3; ++i) {
    applications[i] = fork_application(&devices[i], [](int announce) {
      auto started = start_and_announce(announce);
      auto queue = started->create_queue();
      for (int n = 0; n < 200; ++n) {
        auto signal = started->create_signal();
        Packet p{};
        p.signal = *signal;
        p.code = 1;  // an empty grid runs nothing
        if (!started->submit(*queue, p) || started->wait(*signal, kPatience) != kStatusComplete) _exit(3);
        started->destroy_signal(*signal);
      }
      started.reset();
      _exit(0);
    });
  }
  for (int i = 0; i < 3; ++i) {
    expect_success(applications[i]);
    EXPECT_TRUE(is_gone(devices[i]));
  }
}

}  // namespace
}  // namespace mirrorcl::device
