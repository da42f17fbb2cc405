// SPDX-License-Identifier: Apache-2.0
// What a fresh process waits for: loading the platform, the first context, the first queue and SVM memory (which start
// the device), the first kernel with the compiler's cache warm.
#include <cstdio>
#include <exception>
#include <memory>

#include "bench/report.h"
#include "bench/samples.h"
#include "bench/subprocess.h"

namespace mirrorcl::bench {

namespace {

const char* const kSource = "kernel void set(global int* p) { *p = 42; }";

}  // namespace

int startup_probe(const std::string& name) try {
  cl_platform_id platform = nullptr;
  const double load = time_of([&] { platform = find_platform(name); });
  expect(platform != nullptr, "platform " + name);
  cl_int status = CL_SUCCESS;
  cl_device_id device = nullptr;
  const double start = now();
  check(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr), "clGetDeviceIDs");
  cl_context context = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &status);
  check(status, "clCreateContext");
  const double with_context = now();
  cl_command_queue queue = clCreateCommandQueueWithProperties(context, device, nullptr, &status);
  check(status, "clCreateCommandQueueWithProperties");
  auto* value = static_cast<volatile int*>(clSVMAlloc(context, CL_MEM_SVM_FINE_GRAIN_BUFFER, 4096, 0));
  expect(value != nullptr, "clSVMAlloc");
  *value = 1;
  const double with_device = now();

  cl_program program = clCreateProgramWithSource(context, 1, const_cast<const char**>(&kSource), nullptr, &status);
  check(status, "clCreateProgramWithSource");
  check(clBuildProgram(program, 1, &device, "", nullptr, nullptr), "clBuildProgram");
  cl_kernel kernel = clCreateKernel(program, "set", &status);
  check(status, "clCreateKernel");
  check(clSetKernelArgSVMPointer(kernel, 0, const_cast<int*>(value)), "clSetKernelArgSVMPointer");
  const std::size_t one = 1;
  check(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &one, &one, 0, nullptr, nullptr), "clEnqueueNDRangeKernel");
  check(clFinish(queue), "clFinish");
  const double with_result = now();
  expect(*value == 42, "the first kernel's output");

  std::printf("load %.9f\ncontext %.9f\ndevice %.9f\nresult %.9f\n", load, with_context - start,
              with_device - with_context, load + with_result - start);
  clReleaseKernel(kernel);
  clReleaseProgram(program);
  clSVMFree(context, const_cast<int*>(value));
  clReleaseCommandQueue(queue);
  clReleaseContext(context);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "start-up probe: %s\n", error.what());
  return 1;
}

void add_startup_benchmarks(const Setup& setup) {
  const auto add = [&](const std::string& suffix, Platform* platform, const std::string& name,
                       const std::string& vendors) {
    if (platform == nullptr) return;
    const auto warm = std::make_shared<bool>(false);  // the compiler's cache: by one probe that does not count
    // One probe gives all four numbers; each benchmark runs its own, so that all are ordinary benchmarks.
    for (const char* key : {"load", "context", "device", "result"}) {
      setup.add("startup/" + std::string(key) + suffix, benchmark::kMillisecond, [=]() -> Measurement {
        const auto probe = [&] { return run_probe("startup", {name}, {{"OCL_ICD_VENDORS", vendors}}); };
        if (!*warm) probe();
        *warm = true;
        return {probe().at(key)};
      });
    }
  };
  add("/mirrorcl", setup.mirrorcl, "MirrorCL", setup.vendors.mirrorcl_only());
  add("/pocl", setup.pocl, "Portable Computing Language", setup.vendors.pocl_only());
  setup.report.add_row({"loader and clGetPlatformIDs in a fresh process / PoCL", "startup/load/mirrorcl",
                        "startup/load/pocl", Row::Unit::kMilliseconds, Row::Kind::kAbsolute, 5});
  setup.report.add_row(
      {"first context / PoCL", "startup/context/mirrorcl", "startup/context/pocl", Row::Unit::kMilliseconds});
  setup.report.add_row({"first queue and SVM memory: the device starts / PoCL", "startup/device/mirrorcl",
                        "startup/device/pocl", Row::Unit::kMilliseconds, Row::Kind::kAbsolute, 20});
  setup.report.add_row({"process start to first result, compiler cache warm / PoCL", "startup/result/mirrorcl",
                        "startup/result/pocl", Row::Unit::kMilliseconds});
}

}  // namespace mirrorcl::bench
