// SPDX-License-Identifier: Apache-2.0
// Where no device can be had, the start says why in one sentence. A program of its own, in which only forked children
// touch the window: each finds it as a new process would.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

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

}  // namespace
}  // namespace mirrorcl::device
