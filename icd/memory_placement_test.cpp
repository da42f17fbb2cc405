// SPDX-License-Identifier: Apache-2.0
// cl_mirrorcl_hms (docs/extensions/cl_mirrorcl_hms.md) on the built driver and its real device.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "CL/cl_ext_mirrorcl.h"
#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

constexpr std::size_t kPage = 4096;

class MemoryPlacement : public ContextTest {
 protected:
  void SetUp() override {
    ContextTest::SetUp();
    find(targets_, "clGetMemoryTargetsMIRRORCL");
    find(bind_, "clBindMemoryMIRRORCL");
    find(residency_, "clGetMemoryResidencyMIRRORCL");
    cl_uint count = 0;
    ASSERT_EQ(targets_(device, 0, nullptr, &count), CL_SUCCESS);
    all_.resize(count);
    ASSERT_EQ(targets_(device, count, all_.data(), nullptr), CL_SUCCESS);
    for (const auto& target : all_) {
      if ((target.flags & CL_MEMORY_TARGET_OWN_MIRRORCL) != 0) own_ = target.uid;
      if ((target.flags & CL_MEMORY_TARGET_HOST_MIRRORCL) != 0 && host_ == kNone) host_ = target.uid;
    }
    void* memory = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    memory_ = static_cast<char*>(memory);
    madvise(memory_, kPages * kPage, MADV_NOHUGEPAGE);
  }
  void TearDown() override {
    munmap(memory_, kPages * kPage);
    ContextTest::TearDown();
  }

  // Pages in each of `targets`, in others, in none.
  std::vector<cl_ulong> residency(const void* pointer, std::size_t size, std::vector<cl_uint> targets) {
    std::vector<cl_ulong> pages(targets.size() + 2, 12345);
    EXPECT_EQ(residency_(device, pointer, size, static_cast<cl_uint>(targets.size()),
                         targets.empty() ? nullptr : targets.data(), pages.data()),
              CL_SUCCESS);
    return pages;
  }
  cl_ulong migrate(cl_uint target) {
    cl_ulong moved = 12345;
    EXPECT_EQ(bind_(device, memory_, kPages * kPage, CL_MEMORY_BINDING_MIGRATE_MIRRORCL, 1, &target, &moved),
              CL_SUCCESS);
    return moved;
  }

  static constexpr std::size_t kPages = 700;
  static constexpr cl_uint kNone = ~cl_uint{0};
  clGetMemoryTargetsMIRRORCL_fn targets_ = nullptr;
  clBindMemoryMIRRORCL_fn bind_ = nullptr;
  clGetMemoryResidencyMIRRORCL_fn residency_ = nullptr;
  std::vector<cl_memory_target_info_mirrorcl> all_;
  cl_uint own_ = kNone;   // the device's memory; none with the ATS device
  cl_uint host_ = kNone;  // the best node
  char* memory_ = nullptr;

 private:
  template <typename Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(cl().clGetExtensionFunctionAddressForPlatform(Driver::get().platform, name));
    ASSERT_NE(function, nullptr) << name;
  }
};

TEST_F(MemoryPlacement, IsAnnounced) {
  std::string extensions(4096, '\0');
  std::size_t size = 0;
  ASSERT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_EXTENSIONS, extensions.size(), extensions.data(), &size),
            CL_SUCCESS);
  EXPECT_NE(extensions.find(CL_MIRRORCL_HMS_EXTENSION_NAME), std::string::npos);
}

TEST_F(MemoryPlacement, ListsTheMemoriesThatTheDeviceReaches) {
  ASSERT_FALSE(all_.empty());
  ASSERT_NE(host_, kNone);
  for (const auto& target : all_) {
    EXPECT_NE(std::string(target.name), "");
    EXPECT_GT(target.size, 0U) << target.name;
    bool host = (target.flags & CL_MEMORY_TARGET_HOST_MIRRORCL) != 0;
    EXPECT_EQ(host, target.numa_node >= 0) << target.name;
  }
  if (own_ != kNone) {
    cl_ulong size = 0;
    ASSERT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof size, &size, nullptr), CL_SUCCESS);
    auto own = std::ranges::find_if(all_, [&](const auto& target) { return target.uid == own_; });
    EXPECT_EQ(own->kind, static_cast<cl_uint>(CL_MEMORY_TARGET_DEVICE_MIRRORCL));
    EXPECT_EQ(own->size / kPage, size / kPage);
  }
}

TEST_F(MemoryPlacement, MovesMallocedMemoryToTheDeviceAndBack) {
  if (own_ == kNone) GTEST_SKIP() << "the ATS device has no memory of its own";
  for (std::size_t page = 0; page < 600; ++page) memory_[page * kPage] = static_cast<char>(page);
  EXPECT_EQ(residency(memory_, kPages * kPage, {own_, host_}), (std::vector<cl_ulong>{0, 600, 0, 100}));
  EXPECT_EQ(migrate(own_), 600U);
  EXPECT_EQ(residency(memory_, kPages * kPage, {own_, host_}), (std::vector<cl_ulong>{600, 0, 0, 100}));
  EXPECT_EQ(memory_[5 * kPage], 5) << "which brings that page home";
  EXPECT_EQ(residency(memory_ + 5 * kPage, 1, {own_, host_}), (std::vector<cl_ulong>{0, 1, 0, 0}));
  const cl_ulong away = residency(memory_, kPages * kPage, {own_})[0];
  EXPECT_GT(away, 0U);
  EXPECT_EQ(migrate(host_), away);
  for (std::size_t page = 0; page < 600; ++page) ASSERT_EQ(memory_[page * kPage], static_cast<char>(page));
}

TEST_F(MemoryPlacement, AKernelFindsPrefetchedMemoryWithoutAFault) {
  if (own_ == kNone) GTEST_SKIP() << "the ATS device has no memory of its own";
  auto statistics = reinterpret_cast<clGetMirrorStatisticsMIRRORCL_fn>(
      cl().clGetExtensionFunctionAddressForPlatform(Driver::get().platform, "clGetMirrorStatisticsMIRRORCL"));
  cl_program program =
      build("kernel void sum(global int* words, int n) { for (int i = 1; i < n; ++i) words[0] += words[i * 1024]; }");
  cl_int error = 0;
  cl_kernel kernel = cl().clCreateKernel(program, "sum", &error);
  cl_command_queue queue = cl().clCreateCommandQueueWithProperties(context, device, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  auto* words = reinterpret_cast<int*>(memory_);
  for (std::size_t page = 0; page < kPages; ++page) words[page * 1024] = 1;
  ASSERT_EQ(bind_(device, memory_, kPages * kPage, CL_MEMORY_BINDING_PREFETCH_MIRRORCL, 1, &own_, nullptr), CL_SUCCESS);
  cl_mirror_statistics_mirrorcl before;
  cl_mirror_statistics_mirrorcl after;
  statistics(device, sizeof before, &before, nullptr);
  cl_int n = kPages;
  EXPECT_EQ(cl().clSetKernelArgSVMPointer(kernel, 0, words), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(kernel, 1, sizeof n, &n), CL_SUCCESS);
  const std::size_t one = 1;
  EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &one, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  statistics(device, sizeof after, &after, nullptr);
  EXPECT_EQ(after.pages_to_device, before.pages_to_device) << "all was there";
  EXPECT_EQ(words[0], static_cast<int>(kPages));
  cl().clReleaseCommandQueue(queue);
  cl().clReleaseKernel(kernel);
  cl().clReleaseProgram(program);
}

TEST_F(MemoryPlacement, SvmAllocationsLiveOnTheDevice) {
  if (own_ == kNone) GTEST_SKIP() << "the ATS device has no memory of its own";
  auto* memory = static_cast<char*>(cl().clSVMAlloc(context, CL_MEM_READ_WRITE, 64 * kPage, 0));
  ASSERT_NE(memory, nullptr);
  for (std::size_t page = 0; page < 64; ++page) memory[page * kPage] = 1;
  EXPECT_EQ(residency(memory, 64 * kPage, {own_})[0], 64U);
  cl().clSVMFree(context, memory);
}

// Of one device, also the ATS device; icd/allocation_test.cpp has the rest.
TEST_F(MemoryPlacement, BuffersLieInTheTargetThatIsListed) {
  const cl_mem_properties list[] = {CL_MEM_TARGETS_MIRRORCL, host_, CL_MEMORY_TARGETS_END_MIRRORCL, 0};
  cl_int error = 1;
  cl_mem buffer = cl().clCreateBufferWithProperties(context, list, CL_MEM_READ_WRITE, 8 * kPage, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_uint target = kNone;
  EXPECT_EQ(cl().clGetMemObjectInfo(buffer, CL_MEM_ALLOCATED_TARGET_MIRRORCL, sizeof target, &target, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(target, host_);
  cl_command_queue queue = cl().clCreateCommandQueueWithProperties(context, device, nullptr, &error);
  auto* bytes = static_cast<char*>(
      cl().clEnqueueMapBuffer(queue, buffer, CL_TRUE, CL_MAP_WRITE, 0, 8 * kPage, 0, nullptr, nullptr, &error));
  ASSERT_EQ(error, CL_SUCCESS);
  bytes[0] = bytes[7 * kPage] = 1;
  EXPECT_EQ(residency(bytes, 8 * kPage, {host_}), (std::vector<cl_ulong>{2, 0, 6}));
  EXPECT_EQ(cl().clEnqueueUnmapMemObject(queue, buffer, bytes, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseCommandQueue(queue), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseMemObject(buffer), CL_SUCCESS);
}

TEST_F(MemoryPlacement, DeviceQueriesNameTheMemoryThatIsBestForIt) {
  cl_uint target = kNone;
  ASSERT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_MEMORY_TARGET_MIRRORCL, sizeof target, &target, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(target, own_ != kNone ? own_ : host_);
  cl_bool unified = 2;
  ASSERT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof unified, &unified, nullptr), CL_SUCCESS);
  const char* kind = getenv("MIRRORCL_DEVICE_MEMORY_KIND");
  const bool is_private = own_ != kNone && kind != nullptr && std::string(kind) == "private";
  EXPECT_EQ(unified, is_private ? CL_FALSE : CL_TRUE);
}

TEST_F(MemoryPlacement, BindsAndUnbinds) {
  EXPECT_EQ(bind_(device, memory_, kPages * kPage, CL_MEMORY_BINDING_BIND_MIRRORCL, 1, &host_, nullptr), CL_SUCCESS);
  for (cl_memory_binding_mirrorcl hint :
       {CL_MEMORY_BINDING_READ_MOSTLY_MIRRORCL, CL_MEMORY_BINDING_NOT_READ_MOSTLY_MIRRORCL}) {
    EXPECT_EQ(bind_(device, memory_, kPages * kPage, hint, 0, nullptr, nullptr), CL_SUCCESS);
  }
  EXPECT_EQ(bind_(device, memory_, kPages * kPage, CL_MEMORY_BINDING_PREFERRED_MIRRORCL, 1, &host_, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(bind_(device, memory_, kPages * kPage, CL_MEMORY_BINDING_DEFAULT_MIRRORCL, 0, nullptr, nullptr),
            CL_SUCCESS);
}

TEST_F(MemoryPlacement, RefusesWhatTheExtensionSays) {
  cl_ulong pages[3];
  cl_uint unknown = 4'000'000'000;
  cl_uint count = 0;
  const std::size_t size = kPages * kPage;
  auto wrong = reinterpret_cast<cl_device_id>(Driver::get().platform);
  EXPECT_EQ(targets_(wrong, 0, nullptr, &count), CL_INVALID_DEVICE);
  EXPECT_EQ(targets_(device, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(targets_(device, 1, nullptr, &count), CL_INVALID_VALUE);
  EXPECT_EQ(targets_(device, 0, all_.data(), &count), CL_INVALID_VALUE);

  const cl_memory_binding_mirrorcl bind = CL_MEMORY_BINDING_BIND_MIRRORCL;
  EXPECT_EQ(bind_(nullptr, memory_, size, bind, 1, &host_, nullptr), CL_INVALID_DEVICE);
  EXPECT_EQ(bind_(device, nullptr, size, bind, 1, &host_, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(bind_(device, memory_, 0, bind, 1, &host_, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(bind_(device, memory_, ~std::size_t{0}, bind, 1, &host_, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(bind_(device, memory_, size, 5, 1, &host_, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(bind_(device, memory_, size, bind, 1, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(bind_(device, memory_, size, bind, 1, &host_, pages), CL_INVALID_VALUE);
  EXPECT_EQ(bind_(device, memory_, size, bind, 1, &unknown, nullptr), CL_INVALID_MEMORY_TARGET_MIRRORCL);
  EXPECT_EQ(bind_(device, memory_, size, bind, 0, nullptr, nullptr), CL_INVALID_MEMORY_TARGET_MIRRORCL);

  EXPECT_EQ(residency_(nullptr, memory_, size, 1, &host_, pages), CL_INVALID_DEVICE);
  EXPECT_EQ(residency_(device, memory_, size, 1, &host_, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(residency_(device, memory_, 0, 1, &host_, pages), CL_INVALID_VALUE);
  munmap(memory_ + 10 * kPage, kPage);
  EXPECT_EQ(residency_(device, memory_, size, 1, &host_, pages), CL_INVALID_VALUE) << "a hole";
}

}  // namespace
}  // namespace mirrorcl::icd::testing
