// SPDX-License-Identifier: Apache-2.0
// Where SVM memory and buffers lie (docs/extensions/cl_mirrorcl_hms.md), and what device queries tell of memories: on
// two devices, through the ICD loader as an application has it.
#include <CL/cl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "CL/cl_ext_mirrorcl.h"
#include "hms/tool/run_tool.h"

namespace mirrorcl::icd::testing {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr cl_uint kEnd = CL_MEMORY_TARGETS_END_MIRRORCL;

class Allocation : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {  // before the loader looks for drivers
    setenv("OCL_ICD_VENDORS", MIRRORCL_ICD, 1);
    setenv("MIRRORCL_DEVICES", "2", 1);
    setenv("MIRRORCL_DEVICE_MEMORY", "256M", 1);  // 128 MiB each, of which an allocation may take half
  }

  void SetUp() override {
    ASSERT_EQ(clGetPlatformIDs(1, &platform_, nullptr), CL_SUCCESS);
    cl_uint count = 0;
    ASSERT_EQ(clGetDeviceIDs(platform_, CL_DEVICE_TYPE_ALL, 2, devices_.data(), &count), CL_SUCCESS);
    ASSERT_EQ(count, 2U);
    find(allocate_, "clSVMAllocWithPropertiesMIRRORCL");
    find(targets_, "clGetMemoryTargetsMIRRORCL");
    find(residency_, "clGetMemoryResidencyMIRRORCL");
    cl_int error = 1;
    both_ = clCreateContext(nullptr, 2, devices_.data(), nullptr, nullptr, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    for (std::size_t i = 0; i < 2; ++i) {
      alone_[i] = clCreateContext(nullptr, 1, &devices_[i], nullptr, nullptr, &error);
      ASSERT_EQ(error, CL_SUCCESS);
      for (const auto& target : targets_of(i)) {
        if ((target.flags & CL_MEMORY_TARGET_OWN_MIRRORCL) != 0) own_[i] = target.uid;
        if ((target.flags & CL_MEMORY_TARGET_HOST_MIRRORCL) != 0 && node_ == kEnd) node_ = target.uid;
      }
      ASSERT_NE(own_[i], kEnd);
    }
    ASSERT_NE(node_, kEnd);
  }
  void TearDown() override {
    for (cl_context context : {both_, alone_[0], alone_[1]}) {
      if (context == nullptr) continue;
      EXPECT_EQ(clReleaseContext(context), CL_SUCCESS);
    }
  }

  std::vector<cl_memory_target_info_mirrorcl> targets_of(std::size_t device) {
    std::vector<cl_memory_target_info_mirrorcl> all(64);
    cl_uint count = 0;
    EXPECT_EQ(targets_(devices_[device], 64, all.data(), &count), CL_SUCCESS);
    all.resize(std::min<cl_uint>(count, 64));
    return all;
  }
  static std::vector<cl_properties> listed(cl_properties name, std::vector<cl_uint> uids) {
    std::vector<cl_properties> list{name};
    list.insert(list.end(), uids.begin(), uids.end());
    list.insert(list.end(), {kEnd, 0});
    return list;
  }
  char* svm(cl_context context, std::size_t size, std::vector<cl_uint> uids, cl_int* error) {
    const auto list = listed(CL_SVM_ALLOC_TARGETS_MIRRORCL, std::move(uids));
    return static_cast<char*>(allocate_(
        context, list.data(), CL_MEM_READ_WRITE | CL_MEM_SVM_FINE_GRAIN_BUFFER | CL_MEM_SVM_ATOMICS, size, error));
  }
  char* must_allocate(cl_context context, std::size_t size, std::vector<cl_uint> uids) {
    cl_int error = 1;
    char* memory = svm(context, size, std::move(uids), &error);
    EXPECT_EQ(error, CL_SUCCESS);
    EXPECT_NE(memory, nullptr);
    return memory;
  }
  static void touch(char* memory, std::size_t size) {
    for (std::size_t at = 0; at < size; at += kPage) memory[at] = 1;
  }
  // Pages in the first device's memory, in the second's, in the node, elsewhere, nowhere.
  std::array<cl_ulong, 5> residency(const void* memory, std::size_t size) {
    const std::array<cl_uint, 3> wanted{own_[0], own_[1], node_};
    std::array<cl_ulong, 5> pages{};
    EXPECT_EQ(residency_(devices_[0], memory, size, 3, wanted.data(), pages.data()), CL_SUCCESS);
    return pages;
  }
  template <typename T>
  T device_info(std::size_t device, cl_device_info name) {
    T value{};
    std::size_t size = 0;
    EXPECT_EQ(clGetDeviceInfo(devices_[device], name, sizeof value, &value, &size), CL_SUCCESS) << name;
    EXPECT_EQ(size, sizeof value);
    return value;
  }
  cl_uint target_of(cl_mem buffer) {
    cl_uint target = 0;
    EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_ALLOCATED_TARGET_MIRRORCL, sizeof target, &target, nullptr),
              CL_SUCCESS);
    return target;
  }

  // Adds one to the first int of each page, on each device.
  void add_on_both(char* memory, std::size_t pages) {
    const char* source = "kernel void add(global int* p) { p[get_global_id(0) * 1024] += 1; }";
    cl_int error = 1;
    cl_program program = clCreateProgramWithSource(both_, 1, &source, nullptr, &error);
    ASSERT_EQ(clBuildProgram(program, 0, nullptr, "-cl-std=CL3.0", nullptr, nullptr), CL_SUCCESS);
    cl_kernel kernel = clCreateKernel(program, "add", &error);
    ASSERT_EQ(clSetKernelArgSVMPointer(kernel, 0, memory), CL_SUCCESS);
    for (cl_device_id device : devices_) {
      cl_command_queue queue = clCreateCommandQueueWithProperties(both_, device, nullptr, &error);
      EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &pages, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
      EXPECT_EQ(clFinish(queue), CL_SUCCESS);
      clReleaseCommandQueue(queue);
    }
    clReleaseKernel(kernel);
    clReleaseProgram(program);
  }

  cl_platform_id platform_ = nullptr;
  std::array<cl_device_id, 2> devices_{};
  cl_context both_ = nullptr;
  std::array<cl_context, 2> alone_{};
  std::array<cl_uint, 2> own_{kEnd, kEnd};
  cl_uint node_ = kEnd;
  clSVMAllocWithPropertiesMIRRORCL_fn allocate_ = nullptr;
  clGetMemoryTargetsMIRRORCL_fn targets_ = nullptr;
  clGetMemoryResidencyMIRRORCL_fn residency_ = nullptr;

 private:
  template <typename Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(clGetExtensionFunctionAddressForPlatform(platform_, name));
    ASSERT_NE(function, nullptr) << name;
  }
};

TEST_F(Allocation, WithoutPropertiesLiesInTheMemoryOfTheContextsFirstDevice) {
  for (std::size_t device = 0; device < 2; ++device) {
    auto* memory = static_cast<char*>(clSVMAlloc(alone_[device], CL_MEM_READ_WRITE, 16 * kPage, 0));
    ASSERT_NE(memory, nullptr);
    touch(memory, 16 * kPage);
    EXPECT_EQ(residency(memory, 16 * kPage)[device], 16U);
    clSVMFree(alone_[device], memory);
    cl_int error = 1;
    cl_mem buffer = clCreateBuffer(alone_[device], CL_MEM_READ_WRITE, 16 * kPage, nullptr, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    EXPECT_EQ(target_of(buffer), own_[device]);
    clReleaseMemObject(buffer);
  }
}

TEST_F(Allocation, LiesInTheTargetThatIsListed) {
  const std::array<cl_uint, 3> uids{own_[0], own_[1], node_};
  for (std::size_t i = 0; i < uids.size(); ++i) {
    char* memory = must_allocate(both_, 16 * kPage, {uids[i]});
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(residency(memory, 16 * kPage)[4], 16U) << "nobody has touched it";
    touch(memory, 8 * kPage);
    add_on_both(memory, 16);
    std::array<cl_ulong, 5> expected{};
    expected[i] = 16;
    EXPECT_EQ(residency(memory, 16 * kPage), expected) << "also what only devices have touched";
    for (std::size_t page = 0; page < 16; ++page) EXPECT_EQ(memory[page * kPage], page < 8 ? 3 : 2);
    clSVMFree(both_, memory);

    cl_int error = 1;
    const auto list = listed(CL_MEM_TARGETS_MIRRORCL, {uids[i]});
    cl_mem buffer = clCreateBufferWithProperties(both_, list.data(), CL_MEM_READ_WRITE, 100, nullptr, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    EXPECT_EQ(target_of(buffer), uids[i]);
    std::vector<cl_mem_properties> told(list.size());
    EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_PROPERTIES, list.size() * sizeof list[0], told.data(), nullptr),
              CL_SUCCESS);
    EXPECT_EQ(told, list);
    const cl_buffer_region half{0, 50};
    cl_mem part = clCreateSubBuffer(buffer, 0, CL_BUFFER_CREATE_TYPE_REGION, &half, &error);
    EXPECT_EQ(target_of(part), uids[i]);
    clReleaseMemObject(part);
    clReleaseMemObject(buffer);
  }
}

TEST_F(Allocation, AFullTargetGivesTheNextAndThenAnError) {
  std::vector<char*> pieces;
  for (int i = 0; i < 2; ++i) pieces.push_back(must_allocate(both_, 64 * kMiB, {own_[1], own_[0]}));
  pieces.push_back(must_allocate(both_, 64 * kMiB, {own_[1], own_[0]}));
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    ASSERT_NE(pieces[i], nullptr);
    pieces[i][0] = 1;
    EXPECT_EQ(residency(pieces[i], kPage)[i < 2 ? 1 : 0], 1U) << i;
  }
  cl_int error = 1;
  EXPECT_EQ(svm(both_, kPage, {own_[1]}, &error), nullptr);
  EXPECT_EQ(error, CL_MEM_OBJECT_ALLOCATION_FAILURE);
  const auto list = listed(CL_MEM_TARGETS_MIRRORCL, {own_[1]});
  EXPECT_EQ(clCreateBufferWithProperties(both_, list.data(), CL_MEM_READ_WRITE, kPage, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_MEM_OBJECT_ALLOCATION_FAILURE);
  EXPECT_EQ(clSVMAlloc(alone_[1], CL_MEM_READ_WRITE, kPage, 0), nullptr)
      << "without a list, as if it were listed alone";
  // A context of both has the other's memory too.
  char* rest = static_cast<char*>(clSVMAlloc(both_, CL_MEM_READ_WRITE, kPage, 0));
  EXPECT_NE(rest, nullptr);
  clSVMFree(both_, rest);
  char* elsewhere = must_allocate(both_, 64 * kMiB, {own_[1], node_});
  elsewhere[0] = 1;
  EXPECT_EQ(residency(elsewhere, kPage)[2], 1U);
  clSVMFree(both_, elsewhere);
  clSVMFree(both_, pieces[0]);
  pieces[0] = must_allocate(both_, 64 * kMiB, {own_[1]});
  for (char* piece : pieces) clSVMFree(both_, piece);
}

TEST_F(Allocation, HonoursTheAlignmentProperty) {
  const cl_svm_alloc_properties_mirrorcl list[] = {CL_SVM_ALLOC_ALIGNMENT_MIRRORCL, 2 * kMiB,
                                                   CL_SVM_ALLOC_TARGETS_MIRRORCL,   node_,
                                                   CL_MEMORY_TARGETS_END_MIRRORCL,  0};
  cl_int error = 1;
  void* memory = allocate_(both_, list, CL_MEM_READ_WRITE, 100, &error);
  EXPECT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % (2 * kMiB), 0U);
  clSVMFree(both_, memory);
  memory = allocate_(both_, nullptr, CL_MEM_READ_WRITE, 100, nullptr);
  EXPECT_NE(memory, nullptr);
  clSVMFree(both_, memory);
}

TEST_F(Allocation, RefusesWhatTheExtensionSays) {
  cl_int error = 1;
  const auto refused = [&](std::vector<cl_properties> list, cl_svm_mem_flags flags = CL_MEM_READ_WRITE,
                           std::size_t size = 100) {
    error = 1;
    EXPECT_EQ(allocate_(both_, list.data(), flags, size, &error), nullptr);
    return error;
  };
  const cl_properties kSvm = CL_SVM_ALLOC_TARGETS_MIRRORCL;
  EXPECT_EQ(refused({kSvm, kEnd, 0}), CL_INVALID_PROPERTY) << "an empty list";
  EXPECT_EQ(refused({kSvm, node_, kEnd, kSvm, node_, kEnd, 0}), CL_INVALID_PROPERTY) << "twice";
  EXPECT_EQ(refused({kSvm, cl_properties{1} << 40, kEnd, 0}), CL_INVALID_PROPERTY) << "no uid";
  EXPECT_EQ(refused({kSvm, 4'000'000'000, kEnd, 0}), CL_INVALID_PROPERTY) << "nobody's uid";
  EXPECT_EQ(refused({CL_MEM_TARGETS_MIRRORCL, node_, kEnd, 0}), CL_INVALID_PROPERTY) << "a buffer's";
  EXPECT_EQ(refused({CL_SVM_ALLOC_ALIGNMENT_MIRRORCL, 3, 0}), CL_INVALID_PROPERTY);
  EXPECT_EQ(refused({CL_SVM_ALLOC_ALIGNMENT_MIRRORCL, 8, CL_SVM_ALLOC_ALIGNMENT_MIRRORCL, 8, 0}), CL_INVALID_PROPERTY);
  EXPECT_EQ(refused({0}, CL_MEM_SVM_ATOMICS), CL_INVALID_VALUE);
  EXPECT_EQ(refused({0}, CL_MEM_READ_WRITE, 0), CL_INVALID_VALUE);
  EXPECT_EQ(refused({0}, CL_MEM_READ_WRITE, 65 * kMiB), CL_INVALID_VALUE);
  EXPECT_EQ(allocate_(nullptr, nullptr, CL_MEM_READ_WRITE, 100, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);

  const auto buffer = [&](std::vector<cl_properties> list, cl_mem_flags flags = CL_MEM_READ_WRITE,
                          void* pointer = nullptr) {
    error = 1;
    EXPECT_EQ(clCreateBufferWithProperties(both_, list.data(), flags, 100, pointer, &error), nullptr);
    return error;
  };
  char bytes[100];
  EXPECT_EQ(buffer({CL_MEM_TARGETS_MIRRORCL, kEnd, 0}), CL_INVALID_PROPERTY);
  EXPECT_EQ(buffer({kSvm, node_, kEnd, 0}), CL_INVALID_PROPERTY);
  EXPECT_EQ(buffer({CL_MEM_TARGETS_MIRRORCL, node_, kEnd, 0}, CL_MEM_USE_HOST_PTR, bytes), CL_INVALID_PROPERTY)
      << "that memory is the application's";
  cl_mem host = clCreateBuffer(both_, CL_MEM_USE_HOST_PTR, sizeof bytes, bytes, &error);
  EXPECT_EQ(target_of(host), kEnd);
  clReleaseMemObject(host);
}

TEST_F(Allocation, DeviceQueriesAgreeWithTheTargets) {
  for (std::size_t i = 0; i < 2; ++i) {
    const auto all = targets_of(i);
    const auto own = std::ranges::find(all, own_[i], &cl_memory_target_info_mirrorcl::uid);
    ASSERT_NE(own, all.end());
    EXPECT_EQ(device_info<cl_uint>(i, CL_DEVICE_MEMORY_TARGET_MIRRORCL), own->uid);
    EXPECT_EQ(device_info<cl_ulong>(i, CL_DEVICE_GLOBAL_MEM_SIZE), own->size);
    EXPECT_LE(device_info<cl_ulong>(i, CL_DEVICE_MAX_MEM_ALLOC_SIZE), own->size);
    EXPECT_EQ(device_info<cl_ulong>(i, CL_DEVICE_MEMORY_BANDWIDTH_MIRRORCL), own->bandwidth);
    EXPECT_EQ(device_info<cl_ulong>(i, CL_DEVICE_MEMORY_LATENCY_MIRRORCL), own->latency);
    for (const auto& [source, figure] : {std::pair(CL_DEVICE_MEMORY_BANDWIDTH_SOURCE_MIRRORCL, own->bandwidth),
                                         std::pair(CL_DEVICE_MEMORY_LATENCY_SOURCE_MIRRORCL, own->latency)}) {
      const auto told = device_info<cl_uint>(i, static_cast<cl_device_info>(source));
      EXPECT_EQ(told == CL_FIGURE_UNKNOWN_MIRRORCL, figure == 0);
      EXPECT_LE(told, static_cast<cl_uint>(CL_FIGURE_ASSUMED_MIRRORCL));
    }
    const auto node = device_info<cl_int>(i, CL_DEVICE_MEMORY_NUMA_NODE_MIRRORCL);
    EXPECT_TRUE(std::ranges::any_of(all, [&](const auto& target) { return target.numa_node == node; })) << node;
  }
  EXPECT_NE(device_info<cl_uint>(0, CL_DEVICE_INITIATOR_MIRRORCL),
            device_info<cl_uint>(1, CL_DEVICE_INITIATOR_MIRRORCL));
  cl_uint value = 0;
  EXPECT_EQ(clGetDeviceInfo(devices_[0], CL_DEVICE_MEMORY_LATENCY_SOURCE_MIRRORCL + 1, sizeof value, &value, nullptr),
            CL_INVALID_VALUE);
  std::array<char, 64> name{};
  EXPECT_EQ(clGetDeviceInfo(devices_[0], CL_DEVICE_MEMORY_LATENCY_MIRRORCL, 4, name.data(), nullptr), CL_INVALID_VALUE)
      << "too small";
}

TEST_F(Allocation, HmsWhyTellsTheDecision) {
  char* listed = must_allocate(alone_[1], 4 * kPage, {node_});
  auto* plain = static_cast<char*>(clSVMAlloc(alone_[1], CL_MEM_READ_WRITE, 4 * kPage, 0));
  ASSERT_TRUE(listed != nullptr && plain != nullptr);
  const auto why = [](const void* address) {
    char arguments[64];
    std::snprintf(arguments, sizeof arguments, "why %d %p", getpid(), address);
    const hms::ToolOutcome outcome = hms::run_tool(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    return outcome.output;
  };
  const auto says = [](const std::string& output, const std::string& part) {
    EXPECT_NE(output.find(part), std::string::npos) << part << "\n" << output;
  };
  const std::string asked = why(listed + 2 * kPage);
  says(asked, "the program allocated it for mirrorcl:1: it lies in node");
  says(asked, "Because: bound to this target, the first listed one that has room.");
  says(asked, "Policy: the program's wish: bound to node");
  const std::string unasked = why(plain);
  says(unasked, "the program allocated it for mirrorcl:1: it lies in mirrorcl:1-memory");
  says(unasked, "allocated in the best memory of who asks");
  clSVMFree(alone_[1], listed);
  clSVMFree(alone_[1], plain);
}

}  // namespace
}  // namespace mirrorcl::icd::testing
