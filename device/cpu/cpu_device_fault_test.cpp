// SPDX-License-Identifier: Apache-2.0
// What a kernel may do wrong, and that the next kernel runs all the same.
#include <sys/syscall.h>

#include "device/cpu/cpu_device_fixture.h"

namespace mirrorcl::device {
namespace {

class CpuDeviceFault : public CpuDeviceTest {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(CpuDeviceTest::SetUp());
    // Nothing is mapped in this application as far as this mirror knows.
    start_mirror(
        [this](const mirror::DeviceFault& fault) { EXPECT_EQ(device_->fail(fault, FaultKind::kInvalidAddress), 0); });
    out_ = shared_array<std::uint64_t>(8);
  }

  void expect_failure(TestKernel* kernel, std::initializer_list<TestArgument> list, FaultKind kind) {
    EXPECT_EQ(run(kernel, list), kStatusKernelFailed);
    EXPECT_EQ(last_error_.kind, kind) << fault_kind_name(last_error_.kind);
    EXPECT_FALSE(device_->lost());
    const SignalError error = last_error_;
    const int process = device_->process_id();
    EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
    EXPECT_EQ(device_->process_id(), process);
    last_error_ = error;
  }

  std::uint64_t* out_ = nullptr;
};

TEST_F(CpuDeviceFault, UnmappedAddressFailsWithTheExactAddress) {
  for (std::uint64_t address : {0x12345678ULL, 0x5555'5555'5008ULL, 0x7ffd'1234'5670ULL}) {
    expect_failure(kernel_read, {address, out_}, FaultKind::kInvalidAddress);
    EXPECT_EQ(last_error_.address, address);
    EXPECT_TRUE(window::kCode.contains(last_error_.instruction));
    expect_failure(kernel_write, {address, 1U}, FaultKind::kInvalidAddress);
    EXPECT_EQ(last_error_.address, address);
  }
  EXPECT_GE(faults_.load(), 6);
}

TEST_F(CpuDeviceFault, NullAndLowAddressesFail) {
  for (std::uint64_t address : {0ULL, 8ULL, 0xff0ULL, 0xfff0ULL}) {
    expect_failure(kernel_read, {address, out_}, FaultKind::kInvalidAddress);
    EXPECT_EQ(last_error_.address, address);
  }
}

TEST_F(CpuDeviceFault, NonCanonicalAddressesFailWithTheAddress) {
  for (std::uint64_t address : {0x8000'0000'0000ULL, 0xdead'beef'dead'beefULL, 0x7fff'ffff'ffff'fff8ULL}) {
    expect_failure(kernel_read, {address, out_}, FaultKind::kInvalidAddress);
    EXPECT_EQ(last_error_.address, address);
    expect_failure(kernel_write, {address, 1U}, FaultKind::kInvalidAddress);
    EXPECT_EQ(last_error_.address, address);
  }
}

TEST_F(CpuDeviceFault, KernelAddressesFail) {
  expect_failure(kernel_read, {0xffff'ffff'8000'0000ULL, out_}, FaultKind::kInvalidAddress);
  expect_failure(kernel_read, {0x7fff'ffff'f000ULL, out_}, FaultKind::kInvalidAddress);
}

TEST_F(CpuDeviceFault, TheWindowsUnsharedRegionsAreInvalidAddresses) {
  expect_failure(kernel_read, {window::kPinned.start, out_}, FaultKind::kInvalidAddress);
  expect_failure(kernel_write, {window::kStaging.start, 1U}, FaultKind::kInvalidAddress);
  expect_failure(kernel_read, {window::kViews.start, out_}, FaultKind::kInvalidAddress);
}

TEST_F(CpuDeviceFault, JumpsToNowhereFail) {
  expect_failure(kernel_jump, {0ULL}, FaultKind::kInvalidAddress);
  expect_failure(kernel_jump, {0xdead'beef'dead'beefULL}, FaultKind::kInvalidAddress);
  // Data is not code.
  expect_failure(kernel_jump, {out_}, FaultKind::kInvalidAddress);
}

TEST_F(CpuDeviceFault, IntegerDivisionFails) {
  expect_failure(kernel_divide, {7U, 0U, out_}, FaultKind::kIntegerDivide);
  EXPECT_TRUE(window::kCode.contains(last_error_.address));
  ASSERT_EQ(run(kernel_divide, {42U, 6U, out_}), kStatusComplete);
  EXPECT_EQ(out_[0], 7U);
}

TEST_F(CpuDeviceFault, TrapsFail) {
  expect_failure(kernel_trap, {}, FaultKind::kTrap);
  expect_failure(kernel_breakpoint, {}, FaultKind::kTrap);
}

TEST_F(CpuDeviceFault, IllegalInstructionsFail) {
  expect_failure(kernel_illegal, {}, FaultKind::kIllegalInstruction);
  expect_failure(kernel_privileged, {}, FaultKind::kIllegalInstruction);
}

TEST_F(CpuDeviceFault, StackOverflowFails) {
  expect_failure(kernel_recurse, {}, FaultKind::kStackOverflow);
}

TEST_F(CpuDeviceFault, MisalignedVectorAccessFailsWithTheAddress) {
  std::uint64_t address = reinterpret_cast<std::uint64_t>(out_) + 4;
  expect_failure(kernel_misaligned, {address}, FaultKind::kMisaligned);
  EXPECT_EQ(last_error_.address, address);
}

TEST_F(CpuDeviceFault, NoSystemCallIsAllowedFromAKernel) {
  // exit_group and futex are on the units' list, but only for the firmware's own instructions.
  for (const int number :
       {SYS_getpid, SYS_write, SYS_exit, SYS_exit_group, SYS_futex, SYS_munmap, SYS_mmap, SYS_clock_gettime}) {
    expect_failure(kernel_system_call, {static_cast<std::uint64_t>(number)}, FaultKind::kForbiddenCall);
    EXPECT_TRUE(window::kCode.contains(last_error_.address)) << number;
  }
}

TEST_F(CpuDeviceFault, NamesTheFailingWorkGroupAndAccountsForAllOthers) {
  auto* count = shared_array<std::uint32_t>(1);
  for (std::uint64_t group : {0U, 17U, 999U}) {
    ASSERT_EQ(run(kernel_fail_group, {group, count}, Grid::of_groups(1000)), kStatusKernelFailed);
    EXPECT_EQ(last_error_.group[0], group);
    EXPECT_EQ(last_error_.group[1], 0U);
    EXPECT_EQ(last_error_.work_dim, 1U);
    *count = 0;
    ASSERT_EQ(run(kernel_fail_group, {5000U, count}, Grid::of_groups(1000)), kStatusComplete);
    EXPECT_EQ(*count, 1000U);
  }
}

TEST_F(CpuDeviceFault, EveryGroupMayFailAtOnce) {
  for (int i = 0; i < 50; ++i) {
    Signal* signal = launch(kernel_read, {0x1234'5000ULL, out_}, Grid::of_groups(500));
    ASSERT_EQ(device_->wait(signal, kPatience), kStatusKernelFailed);
    device_->destroy_signal(signal);
  }
  EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
}

TEST_F(CpuDeviceFault, LaterPacketsOfTheQueueStillRun) {
  auto* log = shared_array<std::uint64_t>(4);
  Signal* bad = launch(kernel_trap, {});
  Signal* good = launch(kernel_append, {log, 9U});
  EXPECT_EQ(device_->wait(good, kPatience), kStatusComplete);
  EXPECT_EQ(bad->load_status(), kStatusKernelFailed);
  EXPECT_EQ(log[1], 9U);
}

TEST_F(CpuDeviceFault, AnEndlessKernelCanBeAborted) {
  auto* flag = shared_array<std::uint32_t>(1);
  Signal* signal = launch(kernel_spin, {flag}, Grid::of_groups(100));
  EXPECT_EQ(device_->wait(signal, 5'000'000), kStatusRunning);
  EXPECT_EQ(device_->abort(signal, kPatience), kStatusKernelFailed);
  EXPECT_EQ(signal->error.kind, FaultKind::kAborted);
  EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
}

}  // namespace
}  // namespace mirrorcl::device
