// SPDX-License-Identifier: Apache-2.0
// One OpenCL platform, opened: its first device, a context, an in-order queue and the kernels that benchmarks use.
// Failures are thrown as std::runtime_error inside bench/ and end the benchmark at hand.
#pragma once

#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace mirrorcl::bench {

void check(cl_int status, const char* what);
void expect(bool holds, const std::string& what);

// The platform of that name, or null.
cl_platform_id find_platform(const std::string& name);

struct Grid {
  std::size_t work_items;
  std::size_t group;  // work-items per work-group
};

class Platform {
 public:
  explicit Platform(cl_platform_id platform);
  ~Platform();
  Platform(const Platform&) = delete;
  Platform& operator=(const Platform&) = delete;

  cl_device_id device() const { return device_; }
  cl_context context() const { return context_; }
  cl_command_queue queue() const { return queue_; }

  // Builds `source` once for each (source, name). Owned by the platform.
  cl_kernel kernel(const std::string& source, const std::string& name);
  // A new program and kernel at each call; the caller releases both.
  cl_program build(const std::string& source);

  // Any address that the device can use; memory from svm_alloc on both platforms, all memory on MirrorCL.
  void set_pointers(cl_kernel kernel, const std::vector<const void*>& pointers);
  void enqueue(cl_kernel kernel, Grid grid);
  void finish();

  std::shared_ptr<void> svm_alloc(std::size_t bytes);  // fine-grained

 private:
  cl_device_id device_ = nullptr;
  cl_context context_ = nullptr;
  cl_command_queue queue_ = nullptr;
  std::map<std::pair<std::string, std::string>, cl_kernel> kernels_;
};

}  // namespace mirrorcl::bench
