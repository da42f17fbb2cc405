// SPDX-License-Identifier: Apache-2.0
// hbind() of an application that also uses OpenCL: it and the driver share libmirror-hms, so it reaches the device.
#include "hms/hbind.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "CL/cl_ext_mirrorcl.h"
#include "hms/host_memory.h"
#include "hms/process.h"
#include "hms/query.h"
#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

// The platform is enough: nobody has asked the driver for anything yet.
TEST(HbindBesideOpenCl, KnowsTheDeviceFromTheStart) {
  Driver::get();
  const auto binder = hms::process_binder();
  ASSERT_TRUE(binder) << binder.error().message;
  const auto topology = (*binder)->topology();
  const hms::Initiator* device = topology->initiator_of_device("mirrorcl:0");
  ASSERT_NE(device, nullptr);
  const hms::Target* memory = topology->target_of_device("mirrorcl:0");
  if (memory == nullptr) GTEST_SKIP() << "the ATS device has no memory of its own";
  std::vector<char> bytes(64 * 4096, 1);
  EXPECT_GE(hms_migrate(bytes.data(), bytes.size(), &memory->uid, 1), 63);
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 1), 64 * 4096);
}

// Policies go with the memory also for device memory, of which the kernel knows nothing.
TEST(HbindBesideOpenCl, PoliciesEndWithTheirMemory) {
  Driver::get();
  const auto binder = hms::process_binder();
  ASSERT_TRUE(binder) << binder.error().message;
  const auto topology = (*binder)->topology();  // another may take its place
  const hms::Target* device = topology->target_of_device("mirrorcl:0");
  if (device == nullptr) GTEST_SKIP() << "the ATS device has no memory of its own";
  const std::uint32_t before = (*binder)->policies().range_count();
  void* memory = mmap(nullptr, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  ASSERT_EQ(hms_bind(memory, 64 * 4096, &device->uid, 1), 0);
  EXPECT_EQ((*binder)->policies().range_count(), before + 1);
  munmap(memory, 64 * 4096);
  // The next call of hbind() waits for what has been unmapped.
  std::vector<char> other(4096);
  ASSERT_EQ(hms_unbind(other.data(), other.size()), 0);
  EXPECT_EQ((*binder)->policies().range_count(), before);
}

// Also that of memory which is never unmapped: it is handed out again.
TEST(HbindBesideOpenCl, PoliciesEndWithAnSvmAllocation) {
  const auto binder = hms::process_binder();
  ASSERT_TRUE(binder) << binder.error().message;
  const auto topology = (*binder)->topology();  // another may take its place
  const hms::Target* node = topology->target_of_node(0);
  if (node == nullptr) GTEST_SKIP() << "no node 0";
  cl_device_id device = Driver::get().device;
  cl_int error = 0;
  cl_context context = cl().clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  void* memory = cl().clSVMAlloc(context, CL_MEM_READ_WRITE, 256 * 4096, 0);
  ASSERT_NE(memory, nullptr);
  const std::uint32_t before = (*binder)->policies().range_count();
  if (hms_bind(memory, 256 * 4096, &node->uid, 1) == 0) {
    EXPECT_EQ((*binder)->policies().range_count(), before + 1);
    static_cast<char*>(memory)[0] = 1;
  }
  cl().clSVMFree(context, memory);
  EXPECT_EQ((*binder)->policies().range_count(), before);
  cl().clReleaseContext(context);
}

TEST(HbindBesideOpenCl, MovesMemoryFromTheDeviceToEachNode) {
  constexpr std::size_t kPages = 64;
  Driver::get();
  const auto binder = hms::process_binder();
  ASSERT_TRUE(binder) << binder.error().message;
  const auto machine = (*binder)->topology();
  const hms::Target* device = machine->target_of_device("mirrorcl:0");
  if (device == nullptr) GTEST_SKIP() << "the ATS device has no memory of its own";
  void* memory = mmap(nullptr, kPages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* bytes = static_cast<char*>(memory);
  for (std::size_t page = 0; page < kPages; ++page) bytes[page * 4096] = static_cast<char>(page + 1);
  std::vector<int> nodes(kPages);
  for (const hms::Target& target : machine->targets()) {
    if (!target.is_host() || !hms::kernel_host_memory().may_use(target.node)) continue;
    ASSERT_EQ(hms_migrate(memory, kPages * 4096, &device->uid, 1), static_cast<std::int64_t>(kPages));
    ASSERT_EQ(hms_migrate(memory, kPages * 4096, &target.uid, 1), static_cast<std::int64_t>(kPages)) << target.name;
    ASSERT_EQ(hms::kernel_host_memory().nodes_of(reinterpret_cast<std::uint64_t>(memory), nodes), 0);
    EXPECT_EQ(std::ranges::count(nodes, target.node), static_cast<std::ptrdiff_t>(kPages)) << target.name;
    for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(bytes[page * 4096], static_cast<char>(page + 1));
  }
  munmap(memory, kPages * 4096);
}

// The node that is best for all CPUs, or that the user has named.
TEST(HbindBesideOpenCl, DeviceMemoryIsOnItsNode) {
  Driver::get();
  const auto binder = hms::process_binder();
  ASSERT_TRUE(binder) << binder.error().message;
  const auto machine = (*binder)->topology();
  if (machine->target_of_device("mirrorcl:0") == nullptr) GTEST_SKIP() << "the ATS device has no memory of its own";
  int expected = -1;
  if (const char* named = std::getenv("MIRRORCL_DEVICE_MEMORY_NODE")) {
    expected = std::atoi(named);
  } else {
    hms::Query query;
    for (const hms::Initiator& initiator : machine->initiators()) {
      if (initiator.kind == hms::InitiatorKind::kCpu) query.initiators.push_back(initiator.uid);
    }
    const auto best = hms::best_targets(*machine, query);
    ASSERT_TRUE(best) << best.error().message;
    for (const hms::Candidate& candidate : *best) {
      const hms::Target* target = machine->target(candidate.target);
      if (expected < 0 && target->is_host()) expected = target->node;
    }
  }
  cl_device_id device = Driver::get().device;
  cl_int error = 0;
  cl_context context = cl().clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  constexpr std::size_t kPages = 256;
  auto* memory = static_cast<char*>(cl().clSVMAlloc(context, CL_MEM_READ_WRITE, kPages * 4096, 4096));
  ASSERT_NE(memory, nullptr);
  // Also after the program had it bound elsewhere.
  const auto host =
      std::ranges::find_if(machine->targets(), [](const hms::Target& target) { return target.is_host(); });
  ASSERT_EQ(hms_bind(memory, kPages * 4096, &host->uid, 1), 0);
  ASSERT_EQ(hms_unbind(memory, kPages * 4096), 0);
  for (std::size_t page = 0; page < kPages; ++page) memory[page * 4096] = 1;
  std::vector<int> nodes(kPages);
  ASSERT_EQ(hms::kernel_host_memory().nodes_of(reinterpret_cast<std::uint64_t>(memory), nodes), 0);
  EXPECT_EQ(std::ranges::count(nodes, expected), static_cast<std::ptrdiff_t>(kPages));
  cl().clSVMFree(context, memory);
  cl().clReleaseContext(context);
}

TEST(HbindBesideOpenCl, MovesMemoryToTheDriversDevice) {
  constexpr std::size_t kPage = 4096;
  constexpr std::size_t kPages = 100;
  const auto targets_of = reinterpret_cast<clGetMemoryTargetsMIRRORCL_fn>(
      cl().clGetExtensionFunctionAddressForPlatform(Driver::get().platform, "clGetMemoryTargetsMIRRORCL"));
  ASSERT_NE(targets_of, nullptr);
  std::vector<cl_memory_target_info_mirrorcl> targets(64);
  cl_uint count = 0;
  ASSERT_EQ(targets_of(Driver::get().device, 64, targets.data(), &count), CL_SUCCESS);
  std::uint32_t own = ~std::uint32_t{0};
  for (cl_uint i = 0; i < count && i < targets.size(); ++i) {
    if ((targets[i].flags & CL_MEMORY_TARGET_OWN_MIRRORCL) != 0) own = targets[i].uid;
  }
  if (own == ~std::uint32_t{0}) GTEST_SKIP() << "the ATS device has no memory of its own";

  void* memory = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* bytes = static_cast<char*>(memory);
  for (std::size_t page = 0; page < kPages; ++page) bytes[page * kPage] = static_cast<char>(page);
  EXPECT_EQ(hms_bind(memory, kPages * kPage, &own, 1), 0);
  EXPECT_EQ(hms_migrate(memory, kPages * kPage, &own, 1), static_cast<std::int64_t>(kPages));
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(bytes[page * kPage], static_cast<char>(page));
  EXPECT_EQ(hms_unbind(memory, kPages * kPage), 0);
  munmap(memory, kPages * kPage);
}

// A process that has just begun forks all the time while the first call starts the device.
[[noreturn]] void fork_while_the_device_starts() {
  alarm(60);
  Driver::get();
  std::atomic<bool> started{false};
  std::thread first([&] {
    (void)hms::process_binder();
    started = true;
  });
  bool good = true;
  while (!started && good) {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    int status = 1;
    good = waitpid(child, &status, 0) == child && status == 0;
  }
  first.join();
  std::vector<char> bytes(64 * 4096, 1);
  const auto topology = (*hms::process_binder())->topology();
  const hms::Target* memory = topology->target_of_device("mirrorcl:0");
  if (memory != nullptr) good = good && hms_migrate(bytes.data(), bytes.size(), &memory->uid, 1) >= 63;
  _exit(good ? 0 : 1);
}

TEST(HbindBesideOpenClDeathTest, ForksWhileTheDeviceStartsWaitForNobody) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a program of its own
  for (int round = 0; round < 3; ++round) {
    EXPECT_EXIT(fork_while_the_device_starts(), ::testing::ExitedWithCode(0), "");
  }
}

}  // namespace
}  // namespace mirrorcl::icd::testing
