// SPDX-License-Identifier: Apache-2.0
// The built library as a loader sees it: opened by path, entered through clGetExtensionFunctionAddress and the
// platform's dispatch table. Nothing of the driver is linked into its tests.
#pragma once

#include <CL/cl.h>
#include <CL/cl_ext.h>
#include <CL/cl_icd.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <chrono>
#include <string>
#include <vector>

namespace mirrorcl::icd::testing {

// What every object begins with (cl_khr_icd 2.0).
struct LoaderView {
  const _cl_icd_dispatch* dispatch;
  void* dispatch_data;
};

class Driver {
 public:
  static Driver& get() {
    static Driver driver;
    return driver;
  }

  void* library = nullptr;
  void*(CL_API_CALL* get_extension)(const char*) = nullptr;
  clIcdGetPlatformIDsKHR_fn get_platforms = nullptr;
  void*(CL_API_CALL* get_function)(cl_platform_id, const char*) = nullptr;
  cl_int(CL_API_CALL* set_dispatch_data)(cl_platform_id, void*) = nullptr;
  cl_platform_id platform = nullptr;
  cl_device_id device = nullptr;

  const _cl_icd_dispatch& table() const { return *reinterpret_cast<const LoaderView*>(platform)->dispatch; }

 private:
  template <typename Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(get_extension(name));
  }

  Driver() {
    library = dlopen(MIRRORCL_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      ADD_FAILURE() << dlerror();
      abort();
    }
    get_extension = reinterpret_cast<decltype(get_extension)>(dlsym(library, "clGetExtensionFunctionAddress"));
    find(get_platforms, "clIcdGetPlatformIDsKHR");
    find(get_function, "clIcdGetFunctionAddressForPlatformKHR");
    find(set_dispatch_data, "clIcdSetPlatformDispatchDataKHR");
    get_platforms(1, &platform, nullptr);
    table().clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr);
  }
};

// The dispatch table: cl().clCreateContext(...).
inline const _cl_icd_dispatch& cl() {
  return Driver::get().table();
}

// Polls for up to 20 s, which is far more than anything takes on a busy machine.
template <typename Condition>
bool becomes(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    sched_yield();
  }
  return true;
}

// A fresh context for each test.
class ContextTest : public ::testing::Test {
 protected:
  void SetUp() override {
    device = Driver::get().device;
    cl_int error = -1;
    context = cl().clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    ASSERT_NE(context, nullptr);
  }
  void TearDown() override {
    if (context != nullptr) {
      EXPECT_EQ(cl().clReleaseContext(context), CL_SUCCESS);
    }
  }

  // A program built from `source`; its log is shown when it does not build.
  cl_program build(const char* source, const char* options = "-cl-std=CL3.0") {
    cl_int error = -1;
    cl_program program = cl().clCreateProgramWithSource(context, 1, &source, nullptr, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    EXPECT_EQ(cl().clBuildProgram(program, 1, &device, options, nullptr, nullptr), CL_SUCCESS) << log_of(program);
    return program;
  }

  std::string log_of(cl_program program) {
    std::size_t size = 0;
    EXPECT_EQ(cl().clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, 0, nullptr, &size), CL_SUCCESS);
    std::string log(size, '\0');
    EXPECT_EQ(cl().clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, size, log.data(), nullptr), CL_SUCCESS);
    log.resize(size - 1);
    return log;
  }

  cl_context context = nullptr;
  cl_device_id device = nullptr;
};

}  // namespace mirrorcl::icd::testing
