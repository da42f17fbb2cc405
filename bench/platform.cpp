// SPDX-License-Identifier: Apache-2.0
#include "bench/platform.h"

#include <fmt/format.h>

#include <stdexcept>

namespace mirrorcl::bench {

void check(cl_int status, const char* what) {
  if (status != CL_SUCCESS) throw std::runtime_error(fmt::format("{} returned {}", what, status));
}

void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("wrong result: " + what);
}

cl_platform_id find_platform(const std::string& name) {
  cl_uint count = 0;
  clGetPlatformIDs(0, nullptr, &count);  // an error means none
  std::vector<cl_platform_id> platforms(count);
  if (count > 0) check(clGetPlatformIDs(count, platforms.data(), nullptr), "clGetPlatformIDs");
  for (cl_platform_id platform : platforms) {
    char found[256] = "";
    check(clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof found, found, nullptr), "clGetPlatformInfo");
    if (name == found) return platform;
  }
  return nullptr;
}

Platform::Platform(cl_platform_id platform) {
  cl_int status = CL_SUCCESS;
  check(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device_, nullptr), "clGetDeviceIDs");
  context_ = clCreateContext(nullptr, 1, &device_, nullptr, nullptr, &status);
  check(status, "clCreateContext");
  queue_ = clCreateCommandQueueWithProperties(context_, device_, nullptr, &status);
  if (status != CL_SUCCESS) clReleaseContext(context_);
  check(status, "clCreateCommandQueueWithProperties");
}

Platform::~Platform() {
  for (auto& [source, kernel] : kernels_) clReleaseKernel(kernel);
  clReleaseCommandQueue(queue_);
  clReleaseContext(context_);
}

cl_program Platform::build(const std::string& source) {
  cl_int status = CL_SUCCESS;
  const char* text = source.c_str();
  cl_program program = clCreateProgramWithSource(context_, 1, &text, nullptr, &status);
  check(status, "clCreateProgramWithSource");
  if (clBuildProgram(program, 1, &device_, "-cl-std=CL3.0", nullptr, nullptr) != CL_SUCCESS) {
    std::string log(1 << 16, '\0');
    clGetProgramBuildInfo(program, device_, CL_PROGRAM_BUILD_LOG, log.size() - 1, log.data(), nullptr);
    clReleaseProgram(program);
    throw std::runtime_error(fmt::format("clBuildProgram: {}", log.c_str()));
  }
  return program;
}

cl_kernel Platform::kernel(const std::string& source, const std::string& name) {
  auto [entry, is_new] = kernels_.try_emplace({source, name}, nullptr);
  if (is_new) {
    cl_int status = CL_SUCCESS;
    cl_program program = nullptr;
    try {
      program = build(source);
      entry->second = clCreateKernel(program, name.c_str(), &status);
      clReleaseProgram(program);
      check(status, "clCreateKernel");
    } catch (...) {
      kernels_.erase(entry);
      throw;
    }
  }
  return entry->second;
}

void Platform::set_pointers(cl_kernel kernel, const std::vector<const void*>& pointers) {
  for (cl_uint i = 0; i < pointers.size(); i++) {
    check(clSetKernelArgSVMPointer(kernel, i, pointers[i]), "clSetKernelArgSVMPointer");
  }
}

void Platform::enqueue(cl_kernel kernel, Grid grid) {
  check(clEnqueueNDRangeKernel(queue_, kernel, 1, nullptr, &grid.work_items, &grid.group, 0, nullptr, nullptr),
        "clEnqueueNDRangeKernel");
}

void Platform::finish() {
  check(clFinish(queue_), "clFinish");
}

std::shared_ptr<void> Platform::svm_alloc(std::size_t bytes) {
  void* memory = clSVMAlloc(context_, CL_MEM_READ_WRITE | CL_MEM_SVM_FINE_GRAIN_BUFFER, bytes, 0);
  if (memory == nullptr) throw std::runtime_error(fmt::format("clSVMAlloc of {} bytes returned null", bytes));
  return {memory, [context = context_](void* p) { clSVMFree(context, p); }};
}

}  // namespace mirrorcl::bench
