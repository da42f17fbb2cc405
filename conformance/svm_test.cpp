// SPDX-License-Identifier: Apache-2.0
// The SVM interface itself: clSVMAlloc in all variants, the SVM commands, and the errors of OpenCL 3.0 API,
// sections 5.6
// ("Shared Virtual Memory") and 5.9.2 (clSetKernelArgSVMPointer, clSetKernelExecInfo).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

class SvmPointer {
 public:
  SvmPointer(const ClTest& test, std::size_t bytes, cl_svm_mem_flags flags = CL_MEM_READ_WRITE, cl_uint alignment = 0)
      : context_(test.context()), data_(clSVMAlloc(context_, flags, bytes, alignment)) {
    EXPECT_NE(data_, nullptr) << bytes << " bytes, flags " << flags << ", alignment " << alignment;
  }
  ~SvmPointer() { clSVMFree(context_, data_); }
  SvmPointer(const SvmPointer&) = delete;
  SvmPointer& operator=(const SvmPointer&) = delete;
  template <typename T = unsigned char>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  cl_context context_;
  void* data_;
};

class Svm : public ClTest {
 protected:
  void SetUp() override {
    ClTest::SetUp();
    if (HasFatalFailure()) return;
    if (platform().svm == 0) GTEST_SKIP() << platform().name << " has no SVM";
  }
  bool fine() const { return (platform().svm & CL_DEVICE_SVM_FINE_GRAIN_BUFFER) != 0; }
  bool atomics() const { return (platform().svm & CL_DEVICE_SVM_ATOMICS) != 0; }
  // Maps for the host where the device needs that; a no-op for fine-grained memory.
  void map(void* data, std::size_t bytes) {
    ASSERT_CL(CL_SUCCESS,
              clEnqueueSVMMap(queue(), CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, data, bytes, 0, nullptr, nullptr));
  }
  void unmap(void* data) { ASSERT_CL(CL_SUCCESS, clEnqueueSVMUnmap(queue(), data, 0, nullptr, nullptr)); }
};

TEST_F(Svm, CapabilitiesAreConsistent) {
  // Section 4.2, CL_DEVICE_SVM_CAPABILITIES: system implies buffer, buffer implies coarse.
  if ((platform().svm & CL_DEVICE_SVM_FINE_GRAIN_SYSTEM) != 0) {
    EXPECT_TRUE(fine());
  }
  if (fine()) {
    EXPECT_NE(platform().svm & CL_DEVICE_SVM_COARSE_GRAIN_BUFFER, 0u);
  }
  if (platform().is_mirrorcl) {
    EXPECT_EQ(platform().svm,
              cl_device_svm_capabilities{CL_DEVICE_SVM_COARSE_GRAIN_BUFFER | CL_DEVICE_SVM_FINE_GRAIN_BUFFER |
                                         CL_DEVICE_SVM_FINE_GRAIN_SYSTEM | CL_DEVICE_SVM_ATOMICS});
  }
}

TEST_F(Svm, EveryFlagSetAllocates) {
  std::vector<cl_svm_mem_flags> sets = {0, CL_MEM_READ_WRITE, CL_MEM_READ_ONLY, CL_MEM_WRITE_ONLY};
  for (std::size_t i = 0, n = sets.size(); i < n && fine(); ++i) {
    sets.push_back(sets[i] | CL_MEM_SVM_FINE_GRAIN_BUFFER);
    if (atomics()) sets.push_back(sets[i] | CL_MEM_SVM_FINE_GRAIN_BUFFER | CL_MEM_SVM_ATOMICS);
  }
  Kernel kernel = build("kernel void put(global int *p) { *p = 42; }", "put");
  ASSERT_TRUE(kernel);
  for (cl_svm_mem_flags flags : sets) {
    SvmPointer data(*this, 1000, flags);
    ASSERT_NE(data.as(), nullptr);
    run(kernel, 1, data.as<int>());
    map(data.as(), 1000);
    EXPECT_EQ(*data.as<int>(), 42) << "flags " << flags;
    unmap(data.as());
  }
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
}

TEST_F(Svm, AlignmentsAreKeptAndAllocationsAreDistinct) {
  std::vector<std::unique_ptr<SvmPointer>> all;
  std::vector<std::pair<std::uintptr_t, std::size_t>> ranges;
  for (cl_uint alignment : {0U, 1U, 2U, 4U, 8U, 16U, 32U, 64U, 128U}) {
    for (std::size_t bytes : {1U, 7U, 128U, 5000U, 100'000U, 3'000'000U}) {
      all.push_back(std::make_unique<SvmPointer>(*this, bytes, CL_MEM_READ_WRITE, alignment));
      auto address = reinterpret_cast<std::uintptr_t>(all.back()->as());
      EXPECT_EQ(address % (alignment == 0 ? 128 : alignment), 0u);  // 0: the largest type, long16
      ranges.emplace_back(address, bytes);
    }
  }
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 1; i < ranges.size(); ++i)
    EXPECT_GE(ranges[i].first, ranges[i - 1].first + ranges[i - 1].second);
}

TEST_F(Svm, AllocationErrors) {
  EXPECT_EQ(clSVMAlloc(context(), CL_MEM_READ_WRITE, 0, 0), nullptr);
  EXPECT_EQ(clSVMAlloc(context(), CL_MEM_READ_WRITE | CL_MEM_READ_ONLY, 64, 0), nullptr);
  EXPECT_EQ(clSVMAlloc(context(), CL_MEM_USE_HOST_PTR, 64, 0), nullptr);
  EXPECT_EQ(clSVMAlloc(context(), CL_MEM_READ_WRITE | CL_MEM_SVM_ATOMICS, 64, 0), nullptr);  // without fine grain
  EXPECT_EQ(clSVMAlloc(context(), CL_MEM_READ_WRITE, 64, 3), nullptr);                       // not a power of two
  EXPECT_EQ(clSVMAlloc(context(), CL_MEM_READ_WRITE, 64, 1U << 30), nullptr);                // more than the device has
  EXPECT_EQ(clSVMAlloc(nullptr, CL_MEM_READ_WRITE, 64, 0), nullptr);
  cl_ulong largest = 0;
  ASSERT_CL(CL_SUCCESS, clGetDeviceInfo(device(), CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof largest, &largest, nullptr));
  EXPECT_EQ(clSVMAlloc(context(), CL_MEM_READ_WRITE, largest + 1, 0), nullptr);
  clSVMFree(context(), nullptr);  // does nothing
}

TEST_F(Svm, AllocateAndFreeManyTimes) {
  Kernel kernel = build("kernel void put(global int *p, int v) { p[get_global_id(0)] = v; }", "put");
  ASSERT_TRUE(kernel);
  for (int i = 0; i < 200; ++i) {
    std::size_t words = 1 + static_cast<std::size_t>(i) * 97 % 5000;
    SvmPointer data(*this, words * sizeof(int));
    run(kernel, words, data.as<int>(), i);
    map(data.as(), words * sizeof(int));
    ASSERT_EQ(data.as<int>()[0], i);
    ASSERT_EQ(data.as<int>()[words - 1], i);
    unmap(data.as());
    ASSERT_CL(CL_SUCCESS, clFinish(queue()));
  }
}

TEST_F(Svm, InteriorPointersAsArguments) {
  SvmPointer data(*this, 64);
  Kernel kernel = build("kernel void put(global uchar *p) { *p = 1; }", "put");
  ASSERT_TRUE(kernel);
  map(data.as(), 64);
  std::memset(data.as(), 0, 64);
  unmap(data.as());
  for (std::size_t i = 0; i < 64; i += 3) run(kernel, 1, data.as() + i);
  map(data.as(), 64);
  for (std::size_t i = 0; i < 64; ++i) EXPECT_EQ(data.as()[i], i % 3 == 0) << i;
  unmap(data.as());
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
}

TEST_F(Svm, FineGrainedMemoryIsSharedWhileAKernelRuns) {
  if (!fine() || !atomics() || !platform().has_all_devices_scope) GTEST_SKIP() << "no fine-grained SVM atomics";
  SvmPointer data(*this, sizeof(int), CL_MEM_READ_WRITE | CL_MEM_SVM_FINE_GRAIN_BUFFER | CL_MEM_SVM_ATOMICS);
  auto* word = new (data.as()) std::atomic<int>(0);
  Kernel kernel = build(R"(
kernel void increment(global atomic_int *counter, int times) {
  for (int i = 0; i < times; ++i)
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed, memory_scope_all_svm_devices);
})",
                        "increment");
  ASSERT_TRUE(kernel);
  Event event = launch(kernel, 100, data.as<int>(), 10'000);
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  for (int i = 0; i < 1'000'000; ++i) word->fetch_add(1);
  expect_complete(event);
  EXPECT_EQ(word->load(), 2'000'000);
}

TEST_F(Svm, MemcpyBetweenSvmAndHost) {
  constexpr std::size_t kBytes = 300'000;
  SvmPointer a(*this, kBytes), b(*this, kBytes);
  std::vector<unsigned char> source(kBytes), target(kBytes);
  for (std::size_t i = 0; i < kBytes; ++i) source[i] = static_cast<unsigned char>(i * 31 >> 3);
  Event copied;
  cl_event event = nullptr;
  ASSERT_CL(CL_SUCCESS, clEnqueueSVMMemcpy(queue(), CL_FALSE, a.as(), source.data(), kBytes, 0, nullptr, nullptr));
  ASSERT_CL(CL_SUCCESS,
            clEnqueueSVMMemcpy(queue(), CL_FALSE, b.as() + 5, a.as() + 5, kBytes - 10, 0, nullptr, nullptr));
  ASSERT_CL(CL_SUCCESS,
            clEnqueueSVMMemcpy(queue(), CL_TRUE, target.data(), b.as() + 5, kBytes - 10, 0, nullptr, &event));
  copied.reset(event);
  EXPECT_TRUE(std::equal(source.begin() + 5, source.end() - 5, target.begin()));
  cl_command_type type = 0;
  EXPECT_CL(CL_SUCCESS, clGetEventInfo(event, CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr));
  EXPECT_EQ(type, cl_command_type{CL_COMMAND_SVM_MEMCPY});
  // Section 5.6.2: overlapping regions, null pointers.
  EXPECT_CL(CL_MEM_COPY_OVERLAP, clEnqueueSVMMemcpy(queue(), CL_TRUE, a.as() + 8, a.as(), 16, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMemcpy(queue(), CL_TRUE, nullptr, a.as(), 16, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMemcpy(queue(), CL_TRUE, a.as(), nullptr, 16, 0, nullptr, nullptr));
}

TEST_F(Svm, FillWithEveryPatternSize) {
  SvmPointer data(*this, 1024);
  for (std::size_t size = 1; size <= 128; size *= 2) {
    std::vector<unsigned char> pattern(size);
    std::iota(pattern.begin(), pattern.end(), static_cast<unsigned char>(size));
    ASSERT_CL(CL_SUCCESS, clEnqueueSVMMemFill(queue(), data.as(), pattern.data(), size, 1024, 0, nullptr, nullptr));
    std::fill(pattern.begin(), pattern.end(), 0);  // the pattern may be reused when the call returns
    map(data.as(), 1024);
    for (std::size_t i = 0; i < 1024; ++i) ASSERT_EQ(data.as()[i], static_cast<unsigned char>(size + i % size)) << size;
    unmap(data.as());
  }
  unsigned char pattern[256] = {};
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMemFill(queue(), data.as(), pattern, 3, 1023, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMemFill(queue(), data.as(), pattern, 256, 1024, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMemFill(queue(), data.as(), pattern, 4, 1022, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMemFill(queue(), nullptr, pattern, 4, 16, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMemFill(queue(), data.as(), nullptr, 4, 16, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMemFill(queue(), data.as() + 1, pattern, 4, 16, 0, nullptr, nullptr));
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
}

TEST_F(Svm, MigrateAndItsErrors) {
  SvmPointer data(*this, 100'000);
  const void* pointers[] = {data.as(), data.as() + 5000};
  std::size_t sizes[] = {0, 300};
  cl_event event = nullptr;
  ASSERT_CL(CL_SUCCESS,
            clEnqueueSVMMigrateMem(queue(), 2, pointers, sizes, CL_MIGRATE_MEM_OBJECT_HOST, 0, nullptr, &event));
  Event migrated(event);
  expect_complete(migrated);
  ASSERT_CL(CL_SUCCESS, clEnqueueSVMMigrateMem(queue(), 2, pointers, nullptr, 0, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMigrateMem(queue(), 0, pointers, sizes, 0, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMigrateMem(queue(), 2, nullptr, sizes, 0, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMigrateMem(queue(), 2, pointers, sizes, 0x8000, 0, nullptr, nullptr));
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
}

std::atomic<int> g_freed{0};

void CL_CALLBACK free_them(cl_command_queue queue, cl_uint count, void* pointers[], void* data) {
  cl_context context = nullptr;
  clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, nullptr);
  for (cl_uint i = 0; i < count; ++i) clSVMFree(context, pointers[i]);
  g_freed += static_cast<int>(count) * *static_cast<int*>(data);
}

TEST_F(Svm, EnqueuedFreeWithAndWithoutCallback) {
  void* pointers[3];
  for (void*& pointer : pointers) ASSERT_NE(pointer = clSVMAlloc(context(), CL_MEM_READ_WRITE, 4096, 0), nullptr);
  int factor = 10;
  cl_event event = nullptr;
  g_freed = 0;
  ASSERT_CL(CL_SUCCESS, clEnqueueSVMFree(queue(), 2, pointers, free_them, &factor, 0, nullptr, &event));
  Event freed(event);
  expect_complete(freed);
  EXPECT_EQ(g_freed.load(), 20);
  ASSERT_CL(CL_SUCCESS, clEnqueueSVMFree(queue(), 1, pointers + 2, nullptr, nullptr, 0, nullptr, nullptr));
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMFree(queue(), 0, pointers, nullptr, nullptr, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMFree(queue(), 1, nullptr, nullptr, nullptr, 0, nullptr, nullptr));
}

TEST_F(Svm, MapErrorsAndWaitLists) {
  SvmPointer data(*this, 4096);
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMap(queue(), CL_TRUE, CL_MAP_READ, nullptr, 16, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMap(queue(), CL_TRUE, CL_MAP_READ, data.as(), 0, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMMap(queue(), CL_TRUE, 0x4000, data.as(), 16, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clEnqueueSVMUnmap(queue(), nullptr, 0, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_EVENT_WAIT_LIST,
            clEnqueueSVMMap(queue(), CL_TRUE, CL_MAP_READ, data.as(), 16, 1, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_COMMAND_QUEUE,
            clEnqueueSVMMap(nullptr, CL_TRUE, CL_MAP_READ, data.as(), 16, 0, nullptr, nullptr));
}

TEST_F(Svm, ArgumentAndExecInfoErrors) {
  Kernel kernel = build("kernel void mixed(global int *p, int v, local int *l) { *p = v; l[0] = v; }", "mixed");
  ASSERT_TRUE(kernel);
  SvmPointer data(*this, 64);
  EXPECT_CL(CL_INVALID_ARG_INDEX, clSetKernelArgSVMPointer(kernel.get(), 3, data.as()));
  EXPECT_CL(CL_INVALID_KERNEL, clSetKernelArgSVMPointer(nullptr, 0, data.as()));
  EXPECT_CL(CL_INVALID_ARG_VALUE, clSetKernelArgSVMPointer(kernel.get(), 1, data.as()));
  void* pointers[] = {data.as()};
  EXPECT_CL(CL_SUCCESS, clSetKernelExecInfo(kernel.get(), CL_KERNEL_EXEC_INFO_SVM_PTRS, sizeof pointers, pointers));
  EXPECT_CL(CL_SUCCESS, clSetKernelExecInfo(kernel.get(), CL_KERNEL_EXEC_INFO_SVM_PTRS, 0, nullptr));  // resets, 3.0.17
  EXPECT_CL(CL_INVALID_VALUE, clSetKernelExecInfo(kernel.get(), CL_KERNEL_EXEC_INFO_SVM_PTRS, 3, pointers));
  if ((platform().svm & CL_DEVICE_SVM_FINE_GRAIN_SYSTEM) == 0) {
    cl_bool yes = CL_TRUE;
    EXPECT_CL(CL_INVALID_OPERATION,
              clSetKernelExecInfo(kernel.get(), CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM, sizeof yes, &yes));
  }
}

TEST_F(Svm, BufferOverSvmMemory) {
  // Section 5.2.1: CL_MEM_USE_HOST_PTR with an SVM pointer makes a buffer of the same bytes.
  SvmPointer data(*this, 4096);
  Buffer buffer = make_buffer(CL_MEM_USE_HOST_PTR, 4096, data.as());
  ASSERT_TRUE(buffer);
  cl_bool uses_svm = CL_FALSE;
  EXPECT_CL(CL_SUCCESS, clGetMemObjectInfo(buffer.get(), CL_MEM_USES_SVM_POINTER, sizeof uses_svm, &uses_svm, nullptr));
  EXPECT_EQ(uses_svm, cl_bool{CL_TRUE});
  cl_int code = CL_SUCCESS;
  void* mapped = clEnqueueMapBuffer(queue(), buffer.get(), CL_TRUE, CL_MAP_WRITE, 16, 64, 0, nullptr, nullptr, &code);
  ASSERT_CL(CL_SUCCESS, code);
  EXPECT_EQ(mapped, data.as() + 16);
  std::memset(mapped, 7, 64);
  EXPECT_CL(CL_SUCCESS, clEnqueueUnmapMemObject(queue(), buffer.get(), mapped, 0, nullptr, nullptr));
  Kernel kernel = build(
      "kernel void check(global uchar *cl_mem_view, global uchar *svm_view, global int *same) "
      "{ *same = cl_mem_view == svm_view && svm_view[79] == 7; }",
      "check");
  ASSERT_TRUE(kernel);
  SvmPointer same(*this, sizeof(int));
  run(kernel, 1, buffer.get(), data.as(), same.as<int>());
  map(same.as(), sizeof(int));
  EXPECT_EQ(*same.as<int>(), 1);
  unmap(same.as());
  EXPECT_CL(CL_SUCCESS, clFinish(queue()));
  clCreateBuffer(context(), CL_MEM_USE_HOST_PTR, 2 * 4096, data.as(), &code);
  EXPECT_CL(CL_INVALID_BUFFER_SIZE, code);
}

}  // namespace
}  // namespace mirrorcl::conformance
