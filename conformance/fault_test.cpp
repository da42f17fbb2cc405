// SPDX-License-Identifier: Apache-2.0
// Kernels that do what they must not: their event gets a negative status (OpenCL 3.0 API, section 5.11, clGetEventInfo:
// "any negative value: command was abnormally terminated"), the process lives, everybody's data is intact and the next
// kernel runs. OpenCL leaves all this undefined, so platforms other than MirrorCL are not asked.
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

class Faults : public SystemMemoryTest {
 protected:
  void SetUp() override {
    SystemMemoryTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (!platform().is_mirrorcl) GTEST_SKIP() << "a faulty kernel is undefined behaviour on " << platform().name;
    std::iota(bystander_.begin(), bystander_.end(), 0);
    good_ = build(kAddIndex, "add_index");
    ASSERT_TRUE(good_);
    check_everything_still_works();  // and leaves the bystander's pages on the device
  }
  void TearDown() override {
    good_ = {};
    SystemMemoryTest::TearDown();
  }

  // The event's status after a kernel that must fail.
  void expect_failure(Event event) {
    ASSERT_TRUE(event);
    cl_event handle = event.get();
    EXPECT_CL(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, clWaitForEvents(1, &handle));  // section 5.11
    EXPECT_LT(event_status(event), 0);
    clFinish(queue());
    check_everything_still_works();
  }
  void check_everything_still_works() {
    std::vector<int> before(bystander_.size());
    run(good_, bystander_.size(), bystander_.data(), before.data());
    ++rounds_;
    for (std::size_t i = 0; i < bystander_.size(); ++i) {
      ASSERT_EQ(before[i], static_cast<int>(i) * rounds_) << "the device saw damage at " << i;
      ASSERT_EQ(bystander_[i], static_cast<int>(i) * (rounds_ + 1)) << "the host saw damage at " << i;
    }
  }
  // A kernel that writes one int at `address`, and one that reads it.
  void write_to(std::uint64_t address) {
    Kernel kernel = build("kernel void poke(ulong address) { *(volatile global int *)address = 666; }", "poke");
    ASSERT_TRUE(kernel);
    expect_failure(launch(kernel, 1, cl_ulong{address}));
  }
  void read_from(std::uint64_t address) {
    Kernel kernel =
        build("kernel void peek(ulong address, global int *to) { *to = *(volatile global int *)address; }", "peek");
    ASSERT_TRUE(kernel);
    auto to = std::make_unique<int>(5);
    expect_failure(launch(kernel, 1, cl_ulong{address}, to.get()));
    EXPECT_EQ(*to, 5);
  }
  static std::uint64_t unmapped_address() {
    Mapping hole(kPage);
    return reinterpret_cast<std::uintptr_t>(hole.as());
  }

  std::vector<int> bystander_ = std::vector<int>(3000);
  int rounds_ = 0;
  Kernel good_;
};

TEST_F(Faults, ReadOfNull) {
  read_from(0);
}
TEST_F(Faults, WriteToNull) {
  write_to(0);
}
TEST_F(Faults, ReadOfALowAddress) {
  read_from(0x1234);
}
TEST_F(Faults, WriteToALowAddress) {
  write_to(0xfff0);
}
TEST_F(Faults, ReadOfAnUnmappedAddress) {
  read_from(unmapped_address());
}
TEST_F(Faults, WriteToAnUnmappedAddress) {
  write_to(unmapped_address());
}
TEST_F(Faults, ReadOfANonCanonicalAddress) {
  read_from(0x8000'0000'0000'0000);
}
TEST_F(Faults, WriteToANonCanonicalAddress) {
  write_to(0x1234'5678'9abc'def0);
}
TEST_F(Faults, ReadOfAKernelAddress) {
  read_from(0xffff'ffff'8100'0000);
}
TEST_F(Faults, WriteToTheLastUserPage) {
  write_to(0x7fff'ffff'e000);
}
TEST_F(Faults, ReadBehindTheUserAddressSpace) {
  read_from(0x7fff'ffff'fff8);
}

TEST_F(Faults, ReadOfInaccessibleMemory) {
  Mapping memory(kPage, PROT_NONE);
  read_from(reinterpret_cast<std::uintptr_t>(memory.as()));
}

TEST_F(Faults, WriteToReadOnlyMemory) {
  Mapping memory(2 * kPage);
  memory.as<int>()[3] = 17;
  ASSERT_EQ(mprotect(memory.as(), memory.size(), PROT_READ), 0);
  auto address = reinterpret_cast<std::uintptr_t>(memory.as());
  write_to(address + 12);
  EXPECT_EQ(memory.as<int>()[3], 17);
  // A page that the device has already read, and so has in its page table.
  Kernel kernel = build("kernel void peek(ulong address, global int *to) { *to = *(global int *)address; }", "peek");
  ASSERT_TRUE(kernel);
  int seen = 0;
  run(kernel, 1, cl_ulong{address + 12}, &seen);
  EXPECT_EQ(seen, 17);
  write_to(address + 12);
  EXPECT_EQ(memory.as<int>()[3], 17);
}

TEST_F(Faults, WriteToAStringLiteral) {
  const char* literal = "read only, four bytes at least";
  write_to(reinterpret_cast<std::uintptr_t>(literal) & ~std::uintptr_t{3});
  EXPECT_STREQ(literal, "read only, four bytes at least");
}

TEST_F(Faults, WriteThroughAPointerThatWasFreed) {
  if (built_with_sanitizer()) GTEST_SKIP() << "the sanitizer's allocator keeps freed blocks mapped";
  // The block is large enough to be unmapped by free().
  auto* block = static_cast<int*>(std::malloc(32 * kMiB));
  ASSERT_NE(block, nullptr);
  auto address = reinterpret_cast<std::uintptr_t>(block);
  Kernel kernel = build("kernel void poke(ulong address) { *(volatile global int *)address = 666; }", "poke");
  ASSERT_TRUE(kernel);
  run(kernel, 1, static_cast<cl_ulong>(address + 16 * kMiB));
  EXPECT_EQ(block[16 * kMiB / sizeof(int)], 666);
  std::free(block);
  write_to(address + 16 * kMiB);
}

TEST_F(Faults, OneBadWorkItemOfManyEndsTheKernel) {
  constexpr std::size_t kItems = 100'000;
  Kernel kernel = build(R"(
kernel void mostly_good(global int *data) {
  size_t i = get_global_id(0);
  if (i == 54321) *(volatile global int *)8 = 1;
  data[i] = (int)i;
})",
                        "mostly_good");
  ASSERT_TRUE(kernel);
  std::vector<int> data(kItems, -1);
  expect_failure(launch(kernel, kItems, data.data()));
  for (std::size_t i = 0; i < kItems; ++i) ASSERT_TRUE(data[i] == -1 || data[i] == static_cast<int>(i)) << i;
}

TEST_F(Faults, EveryWorkItemBad) {
  Kernel kernel =
      build("kernel void bad(ulong a) { *(volatile global int *)(a + get_global_id(0) * 4096) = 1; }", "bad");
  ASSERT_TRUE(kernel);
  expect_failure(launch(kernel, Grid({4096}, {16}), cl_ulong{0x10'0000'0000}));
}

TEST_F(Faults, IntegerDivisionByZero) {
  Kernel kernel = build("kernel void divide(global int *a, int b) { *a = *a / b; }", "divide");
  ASSERT_TRUE(kernel);
  auto value = std::make_unique<int>(12);
  expect_failure(launch(kernel, 1, value.get(), 0));
  EXPECT_EQ(*value, 12);
  run(kernel, 1, value.get(), 3);
  EXPECT_EQ(*value, 4);
}

TEST_F(Faults, TrapInstruction) {
  Kernel kernel = build("kernel void trap(int go) { if (go) __builtin_trap(); }", "trap");
  ASSERT_TRUE(kernel);
  expect_failure(launch(kernel, 1, 1));
  run(kernel, 1, 0);
}

TEST_F(Faults, BreakpointInstruction) {
  Kernel kernel = build("kernel void breakpoint(int go) { if (go) __builtin_debugtrap(); }", "breakpoint");
  ASSERT_TRUE(kernel);
  expect_failure(launch(kernel, 1, 1));
  run(kernel, 1, 0);
}

TEST_F(Faults, RunawayStack) {
  // More private memory than any stack has, used from its far end, where the guard page is.
  Kernel kernel = build(R"(
kernel void deep(global int *result, int from) {
  volatile char much[1 << 29];
  for (int i = from; i >= 0; i -= 4096) much[i] = (char)i;
  *result = much[from / 2];
})",
                        "deep");
  ASSERT_TRUE(kernel);
  auto result = std::make_unique<int>(9);
  expect_failure(launch(kernel, 1, result.get(), (1 << 29) - 1));
  EXPECT_EQ(*result, 9);
}

TEST_F(Faults, SystemCallFromAKernel) {
  // getpid(), then write(1, ...): neither is a kernel's business.
  Kernel kernel = build(R"(
kernel void call(global long *result, long number) {
  long value = number;
  __asm__ volatile("syscall" : "+a"(value) : "D"(1L), "S"(result), "d"(8L) : "rcx", "r11", "memory");
  *result = value;
})",
                        "call");
  ASSERT_TRUE(kernel);
  auto result = std::make_unique<cl_long>(-7);
  for (cl_long number : {39, 1, 57, 231}) {  // getpid, write, fork, exit_group
    expect_failure(launch(kernel, 1, result.get(), number));
    EXPECT_EQ(*result, -7) << "system call " << number;
  }
}

TEST_F(Faults, JumpToNowhere) {
  Kernel kernel = build(R"(
kernel void jump(ulong address) { __asm__ volatile("jmp *%0" : : "r"(address) : "memory"); }
)",
                        "jump");
  ASSERT_TRUE(kernel);
  expect_failure(launch(kernel, 1, cl_ulong{0}));
  expect_failure(launch(kernel, 1, cl_ulong{0x10'0000'0000}));
  // Host memory is data to a device, also where the host may execute it.
  expect_failure(launch(kernel, 1, static_cast<cl_ulong>(reinterpret_cast<std::uintptr_t>(&std::abort))));
}

TEST_F(Faults, AHundredFaultsInARow) {
  Kernel kernel = build("kernel void poke(ulong address) { *(volatile global int *)address = 666; }", "poke");
  ASSERT_TRUE(kernel);
  for (int i = 0; i < 100; ++i) {
    Event event = launch(kernel, 1, cl_ulong{0x1000});
    cl_event handle = event.get();
    ASSERT_CL(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, clWaitForEvents(1, &handle)) << i;
  }
  check_everything_still_works();
}

TEST_F(Faults, KernelsQueuedBehindAFaultyOneStillRun) {
  // In an in-order queue the failure belongs to its own event; commands that do not wait for that event go on.
  Kernel bad = build("kernel void poke(ulong address) { *(volatile global int *)address = 666; }", "poke");
  Kernel add = build("kernel void add(global int *p) { *p += 1; }", "add");
  ASSERT_TRUE(bad);
  ASSERT_TRUE(add);
  auto counter = std::make_unique<int>(0);
  Event first = launch(add, 1, counter.get());
  Event second = launch(bad, 1, cl_ulong{0});
  Event third = launch(add, 1, counter.get());
  expect_failure(std::move(second));
  expect_complete(first);
  expect_complete(third);
  EXPECT_EQ(*counter, 2);
}

TEST_F(Faults, CommandsThatWaitForAFailedEventFailToo) {
  // Section 5.11: a command whose wait list has a failed event does not run; its status is negative as well.
  Kernel bad = build("kernel void poke(ulong address) { *(volatile global int *)address = 666; }", "poke");
  Kernel add = build("kernel void add(global int *p) { *p += 1; }", "add");
  ASSERT_TRUE(bad);
  ASSERT_TRUE(add);
  auto counter = std::make_unique<int>(0);
  Event failed = launch(bad, 1, cl_ulong{0});
  ASSERT_TRUE(failed);
  ASSERT_CL(CL_SUCCESS, set_argument(add.get(), 0, counter.get()));
  std::size_t one = 1;
  cl_event wait = failed.get(), dependant = nullptr;
  ASSERT_CL(CL_SUCCESS, clEnqueueNDRangeKernel(queue(), add.get(), 1, nullptr, &one, nullptr, 1, &wait, &dependant));
  expect_failure(Event(dependant));
  EXPECT_EQ(*counter, 0);
}

}  // namespace
}  // namespace mirrorcl::conformance
