// SPDX-License-Identifier: Apache-2.0
// What every conformance test stands on: the platform under test, a context and a queue per test, kernels built from a
// string, launches that set their arguments by type, and checks that print the name of an OpenCL error.
//
// The tests use nothing but the OpenCL 3.0 API through the loader, so they run on any platform:
//   MIRRORCL_TEST_PLATFORM=text   test the first platform whose name contains `text` (default "MirrorCL")
//   MIRRORCL_TEST_DEVICE=1        test this device of it, counted from 0 (default 0)
//   MIRRORCL_TEST_ASSUME_SYSTEM=1 run the system-memory tests though the device does not claim fine-grain system SVM
// A test of something that the device does not claim is skipped and says so.
#pragma once

#ifndef CL_TARGET_OPENCL_VERSION
#define CL_TARGET_OPENCL_VERSION 300
#endif
#include <CL/cl.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace mirrorcl::conformance {

// "CL_INVALID_VALUE (-30)"
std::string error_name(cl_int code);

// Compares two OpenCL error codes and prints their names: EXPECT_CL(CL_SUCCESS, clFinish(queue())).
::testing::AssertionResult same_code(const char* expected_text, const char* actual_text, cl_int expected,
                                     cl_int actual);
#define EXPECT_CL(expected, actual) EXPECT_PRED_FORMAT2(::mirrorcl::conformance::same_code, expected, actual)
#define ASSERT_CL(expected, actual) ASSERT_PRED_FORMAT2(::mirrorcl::conformance::same_code, expected, actual)

struct Platform {
  cl_platform_id id = nullptr;
  cl_device_id device = nullptr;  // its first device, or that of MIRRORCL_TEST_DEVICE
  cl_uint device_count = 0;       // of the platform
  std::string name;
  cl_device_svm_capabilities svm = 0;
  bool is_mirrorcl = false;
  bool has_int64_atomics = false;
  bool has_all_devices_scope = false;
};

// The platform under test, looked up once. `id` is null if there is none.
const Platform& platform();

// Owns one reference of an OpenCL object.
template <typename Handle, cl_int(CL_API_CALL* Release)(Handle)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    reset(std::exchange(other.handle_, nullptr));
    return *this;
  }
  ~Owned() { reset(); }

  Handle get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }
  // Gives the reference to the caller.
  Handle release() { return std::exchange(handle_, nullptr); }
  void reset(Handle handle = nullptr) {
    if (handle_ != nullptr) {
      EXPECT_CL(CL_SUCCESS, Release(handle_));
    }
    handle_ = handle;
  }

 private:
  Handle handle_ = nullptr;
};
using Context = Owned<cl_context, clReleaseContext>;
using Queue = Owned<cl_command_queue, clReleaseCommandQueue>;
using Program = Owned<cl_program, clReleaseProgram>;
using KernelHandle = Owned<cl_kernel, clReleaseKernel>;
using Buffer = Owned<cl_mem, clReleaseMemObject>;
using Event = Owned<cl_event, clReleaseEvent>;

// A kernel and the program it comes from; empty if the build failed.
struct Kernel {
  Program program;
  KernelHandle handle;
  cl_kernel get() const { return handle.get(); }
  explicit operator bool() const { return static_cast<bool>(handle); }
};

// The local memory argument of a launch, in bytes.
struct Local {
  std::size_t bytes;
};

// The index space of a launch; an empty `local` leaves the work-group size to the driver.
struct Grid {
  Grid(std::size_t items)
      : global{items} {}  // NOLINT(google-explicit-constructor): launch(kernel, 1024, ...) reads well
  Grid(std::vector<std::size_t> global_size, std::vector<std::size_t> local_size,
       std::vector<std::size_t> global_offset = {})
      : global(std::move(global_size)), local(std::move(local_size)), offset(std::move(global_offset)) {}
  std::vector<std::size_t> global, local, offset;
};

inline cl_int set_argument(cl_kernel kernel, cl_uint index, cl_mem buffer) {
  return clSetKernelArg(kernel, index, sizeof(cl_mem), static_cast<void*>(&buffer));
}
inline cl_int set_argument(cl_kernel kernel, cl_uint index, Local local) {
  return clSetKernelArg(kernel, index, local.bytes, nullptr);
}
// Any other pointer is an SVM pointer, everything else is passed by value.
template <typename T>
cl_int set_argument(cl_kernel kernel, cl_uint index, const T& value) {
  if constexpr (std::is_pointer_v<T>) {
    return clSetKernelArgSVMPointer(kernel, index, value);
  } else {
    static_assert(std::is_trivially_copyable_v<T>);
    return clSetKernelArg(kernel, index, sizeof(T), &value);
  }
}

// A context and an in-order queue with profiling on the platform under test, one pair for each test.
class ClTest : public ::testing::Test {
 public:
  cl_device_id device() const { return platform().device; }
  cl_context context() const { return context_.get(); }
  cl_command_queue queue() const { return queue_.get(); }

  Queue make_queue(cl_command_queue_properties properties = 0) const;
  // Builds `source` and takes one kernel from it. The language version is OpenCL C 3.0 unless `options` says otherwise.
  // On failure records the build log as a test failure and returns an empty kernel.
  Kernel build(const std::string& source, const std::string& kernel_name, const std::string& options = "") const;
  Buffer make_buffer(cl_mem_flags flags, std::size_t bytes, void* host_pointer = nullptr) const;

  // Sets the arguments and enqueues; returns the event of the launch, or null after recording a failure.
  template <typename... Arguments>
  Event launch_on(cl_command_queue on, const Kernel& kernel, const Grid& grid, Arguments... arguments) const {
    cl_uint index = 0;
    cl_int code = CL_SUCCESS;
    ((code = code == CL_SUCCESS ? set_argument(kernel.get(), index++, arguments) : code), ...);
    EXPECT_CL(CL_SUCCESS, code) << "argument " << index - 1;
    return code == CL_SUCCESS ? enqueue(on, kernel, grid) : Event();
  }
  template <typename... Arguments>
  Event launch(const Kernel& kernel, const Grid& grid, Arguments... arguments) const {
    return launch_on(queue(), kernel, grid, arguments...);
  }
  // launch(), flush, wait for the end; the event must be complete.
  template <typename... Arguments>
  void run(const Kernel& kernel, const Grid& grid, Arguments... arguments) const {
    expect_complete(launch(kernel, grid, arguments...));
  }

  Event enqueue(cl_command_queue on, const Kernel& kernel, const Grid& grid) const;
  void expect_complete(const Event& event) const;

 protected:
  void SetUp() override;
  void TearDown() override;

 private:
  Context context_;
  Queue queue_;
};

// Tests of the host process's own memory: skipped where the device does not claim fine-grain system SVM (OpenCL 3.0 API
// section 5.6, "Shared Virtual Memory").
class SystemMemoryTest : public ClTest {
 protected:
  void SetUp() override;
};

// Tests that also need atomics shared by host and device: CL_DEVICE_SVM_ATOMICS and memory_scope_all_svm_devices.
class SystemAtomicsTest : public SystemMemoryTest {
 protected:
  void SetUp() override;
};

cl_int event_status(const Event& event);

// Polls `condition` until it holds or `limit` passed; returns whether it held. Sleeps a millisecond between looks.
bool wait_until(const std::function<bool()>& condition, std::chrono::milliseconds limit);

// Whether this build is instrumented by a sanitizer, and so slow that counts should be smaller.
constexpr bool built_with_sanitizer() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return true;
#else
  return false;
#endif
}

// An anonymous private mapping, unmapped at the end.
class Mapping {
 public:
  explicit Mapping(std::size_t bytes, int protection = -1, int extra_flags = 0, void* fixed_address = nullptr);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  // The mapping no longer belongs to this object (it was unmapped or moved).
  void forget() { data_ = nullptr; }
  template <typename T = unsigned char>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t size() const { return size_; }

 private:
  void* data_;
  std::size_t size_;
};

inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kMiB = std::size_t{1} << 20;
inline constexpr std::size_t kGiB = std::size_t{1} << 30;

// The kernel that most memory tests use: each work-item adds its number to its word and notes what it found.
inline constexpr const char* kAddIndex = R"(
kernel void add_index(global int *data, global int *before) {
  size_t i = get_global_id(0);
  before[i] = data[i];
  data[i] += (int)i;
})";

}  // namespace mirrorcl::conformance
