// SPDX-License-Identifier: Apache-2.0
// What the examples share: find the platform "MirrorCL", open its device, build a kernel. Any failure ends the program
// with one line that says what failed.
#pragma once

#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace example {

[[noreturn]] inline void fail(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(1);
}

inline void check(cl_int status, const char* what) {
  if (status != CL_SUCCESS) fail(std::string(what) + " returned " + std::to_string(status));
}

inline void expect(bool holds, const char* what) {
  if (!holds) fail(std::string("wrong result: ") + what);
}

struct OpenCl {
  cl_platform_id platform = nullptr;
  cl_device_id device = nullptr;
  cl_context context = nullptr;
  cl_command_queue queue = nullptr;
};

inline cl_platform_id find_platform(const std::string& wanted) {
  cl_uint count = 0;
  clGetPlatformIDs(0, nullptr, &count);  // fails if there is no platform at all: then count stays 0
  std::vector<cl_platform_id> platforms(count);
  if (count > 0) check(clGetPlatformIDs(count, platforms.data(), nullptr), "clGetPlatformIDs");
  for (cl_platform_id platform : platforms) {
    char name[256] = "";
    check(clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof name, name, nullptr), "clGetPlatformInfo");
    if (name == wanted) return platform;
  }
  fail("no OpenCL platform \"" + wanted + "\" among the " + std::to_string(count) +
       " that are installed; to use the one in a build tree, set OCL_ICD_VENDORS=<build tree>/mirrorcl.icd");
}

inline OpenCl open_mirrorcl() {
  OpenCl cl;
  cl_int status = CL_SUCCESS;
  cl.platform = find_platform("MirrorCL");
  check(clGetDeviceIDs(cl.platform, CL_DEVICE_TYPE_ALL, 1, &cl.device, nullptr), "clGetDeviceIDs");
  cl_device_svm_capabilities svm = 0;
  check(clGetDeviceInfo(cl.device, CL_DEVICE_SVM_CAPABILITIES, sizeof svm, &svm, nullptr), "clGetDeviceInfo");
  if ((svm & CL_DEVICE_SVM_FINE_GRAIN_SYSTEM) == 0) fail("the device cannot use the process's own memory");
  cl.context = clCreateContext(nullptr, 1, &cl.device, nullptr, nullptr, &status);
  check(status, "clCreateContext");
  cl.queue = clCreateCommandQueueWithProperties(cl.context, cl.device, nullptr, &status);
  check(status, "clCreateCommandQueueWithProperties");
  return cl;
}

inline cl_kernel build_kernel(const OpenCl& cl, const char* source, const char* name) {
  cl_int status = CL_SUCCESS;
  cl_program program = clCreateProgramWithSource(cl.context, 1, &source, nullptr, &status);
  check(status, "clCreateProgramWithSource");
  if (clBuildProgram(program, 1, &cl.device, "-cl-std=CL3.0", nullptr, nullptr) != CL_SUCCESS) {
    std::vector<char> log(1 << 16);
    clGetProgramBuildInfo(program, cl.device, CL_PROGRAM_BUILD_LOG, log.size() - 1, log.data(), nullptr);
    fail(std::string("the kernel does not build:\n") + log.data());
  }
  cl_kernel kernel = clCreateKernel(program, name, &status);
  check(status, "clCreateKernel");
  clReleaseProgram(program);  // the kernel keeps it alive
  return kernel;
}

// Launches `count` work-items of `kernel`, whose arguments are `pointers`: any addresses of this process.
inline void launch(const OpenCl& cl, cl_kernel kernel, size_t count, const std::vector<void*>& pointers) {
  for (cl_uint i = 0; i < pointers.size(); i++) {
    check(clSetKernelArgSVMPointer(kernel, i, pointers[i]), "clSetKernelArgSVMPointer");
  }
  check(clEnqueueNDRangeKernel(cl.queue, kernel, 1, nullptr, &count, nullptr, 0, nullptr, nullptr),
        "clEnqueueNDRangeKernel");
  check(clFlush(cl.queue), "clFlush");
}

inline void close(OpenCl& cl, cl_kernel kernel) {
  clReleaseKernel(kernel);
  clReleaseCommandQueue(cl.queue);
  clReleaseContext(cl.context);
}

}  // namespace example
