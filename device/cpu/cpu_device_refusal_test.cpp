// SPDX-License-Identifier: Apache-2.0
// Where no device can be had, the start says why in one sentence; and where it can be had with less. A program of its
// own, in which only forked children touch the window: each finds it as a new process would.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/log.h"
#include "base/paths.h"
#include "base/test_users.h"
#include "device/cpu/cpu_device.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

namespace mirrorcl::device {
namespace {

// Runs `body` in a child; its exit status must be 0.
void in_child(void (*body)()) {
  int child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// Ends the child unless the start is refused with `code` and a message that contains `text`.
void expect_refusal(const CpuDeviceOptions& options, ErrorCode code, const std::string& text) {
  auto device = CpuDevice::start(options);
  if (device) _exit(10);
  if (device.error().code != code || device.error().message.find(text) == std::string::npos) {
    fprintf(stderr, "refused with: %s\n", device.error().message.c_str());
    _exit(11);
  }
}

TEST(CpuDeviceRefusal, SaysThatAFileSizeLimitForbidsIt) {
  in_child([] {
    rlimit limit{1'000'000, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &limit);
    expect_refusal({}, ErrorCode::kNotSupported, "ulimit -f");
  });
}

TEST(CpuDeviceRefusal, SaysThatTheFirmwareIsMissing) {
  in_child([] {
    CpuDeviceOptions options;
    options.firmware = "/nonexistent/mirrorcl-firmware";
    expect_refusal(options, ErrorCode::kNotSupported, "is missing");
  });
}

TEST(CpuDeviceRefusal, SaysThatAnotherProgramIsNotTheFirmware) {
  in_child([] {
    CpuDeviceOptions options;
    options.firmware = "/bin/true";
    expect_refusal(options, ErrorCode::kSystem, "before it was ready");
  });
}

TEST(CpuDeviceRefusal, SaysThatTheWindowIsTaken) {
  in_child([] {
    void* taken = mmap(reinterpret_cast<void*>(window::kHeap.start), 4096, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (taken == MAP_FAILED) _exit(13);
    expect_refusal({}, ErrorCode::kNotSupported, "already in use");
    munmap(taken, 4096);
    // Nothing is left behind: the next try succeeds.
    auto device = CpuDevice::start({});
    if (!device) _exit(12);
  });
}

// --- no refusals: devices that have small pages

class CpuDeviceWithSmallPages : public ::testing::Test {
 protected:
  // Before options are read, in this process or in a child.
  void SetUp() override { setenv("MIRRORCL_LOG", "info", 1); }
};

// What the driver says while it starts a device with `options`, as an ordinary user; then the device has been there and
// had no huge page.
std::string words_of_a_start_with_small_pages(const CpuDeviceOptions& options) {
  init_log();
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0 || dup2(ends[1], STDERR_FILENO) < 0) return "no pipe";
  auto device = CpuDevice::start(options);
  if (!device) return device.error().message;
  for (int i = 0; i < 100; ++i) {
    if ((*device)->allocate_block(0x3000'0000'0000) != nullptr) return "a huge page";
  }
  char text[4096];
  return {text, static_cast<std::size_t>(std::max<ssize_t>(read(ends[0], text, sizeof text), 0))};
}

// Who may not read a program may not read /proc/PID of its processes.
TEST_F(CpuDeviceWithSmallPages, SaysThatTheDeviceProcessMayNotTellOfItself) {
  char folder[] = "/tmp/mirrorcl-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::filesystem::path firmware = std::filesystem::path(folder) / "mirrorcl-firmware";
  std::filesystem::copy_file(private_file("mirrorcl-firmware"), firmware);
  ASSERT_EQ(chmod(folder, 0755), 0);
  ASSERT_EQ(chmod(firmware.c_str(), 0111), 0);
  CpuDeviceOptions options;
  options.firmware = firmware;
  const std::string words = as_ordinary_user([&] { return words_of_a_start_with_small_pages(options); });
  std::filesystem::remove_all(folder);
  EXPECT_NE(words.find("device memory has no huge pages: /proc/self/pagemap of the device process: Permission denied"),
            std::string::npos)
      << words;
}

TEST_F(CpuDeviceWithSmallPages, SaysThatTheProcessMayNotLookAtItself) {
  const std::string words = as_ordinary_user([] {
    prctl(PR_SET_DUMPABLE, 0);
    return words_of_a_start_with_small_pages({});
  });
  if (words.find("is missing") != std::string::npos) GTEST_SKIP() << words;
  EXPECT_NE(words.find("device memory has no huge pages: /proc/self/pagemap: Permission denied"), std::string::npos)
      << words;
}

}  // namespace
}  // namespace mirrorcl::device
