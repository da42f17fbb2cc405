// SPDX-License-Identifier: Apache-2.0
// The device as OpenCL shows it: what the machine offers, what the driver can do, and whether it can be had at all.
#pragma once

#include <CL/cl.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "base/result.h"
#include "icd/core/device_choice.h"
#include "icd/core/object.h"

namespace mirrorcl::icd {

class Runtime;

// Facts about the machine, or what of it falls to one of several devices; read once, at the first question.
struct DeviceFacts {
  std::string name;       // of the processor
  std::string vendor;     // of the processor
  cl_uint vendor_id = 0;  // PCI vendor id of the processor's maker, 0 if unknown
  cl_uint compute_units = 1;
  cl_uint clock_mhz = 0;           // 0: the machine does not tell
  cl_ulong memory_size = 0;        // bytes that may be resident on the device
  bool unified_memory = true;      // the host's processors use the device's memory in place
  cl_ulong cache_size = 0;         // bytes of the largest cache
  cl_uint cache_line_size = 64;    // bytes
  cl_ulong local_memory_size = 0;  // bytes of local memory that a work-group may use
};

}  // namespace mirrorcl::icd

struct _cl_device_id : mirrorcl::icd::Object<_cl_device_id> {
 public:
  _cl_device_id(_cl_platform_id* platform, std::uint32_t index) noexcept;

  _cl_platform_id* platform() const noexcept { return platform_; }
  std::uint32_t index() const noexcept { return index_; }  // among the platform's devices
  const mirrorcl::icd::DeviceFacts& facts();
  cl_ulong max_allocation() { return facts().memory_size / 2; }  // CL_DEVICE_MAX_MEM_ALLOC_SIZE, in bytes

  // Which device can run kernels here (asked without starting anything), or why none can, in one sentence.
  const mirrorcl::Result<mirrorcl::icd::DeviceChoice>& availability();
  // The same for the compiler.
  const mirrorcl::Result<void>& compiler_availability();
  // CL_DEVICE_VERSION: "OpenCL 3.0 MirrorCL 0.1.0", and in parentheses what is not available and why, and why this is
  // the ATS device if it is.
  std::string version();

  // The running device with the mirror behind it; starts everything at the first call of the process.
  mirrorcl::Result<mirrorcl::icd::Runtime*> runtime();

  static constexpr cl_ulong kMaxWorkGroupSize = 4096;
  static constexpr cl_uint kMaxDimensions = 3;
  static constexpr std::size_t kMaxParameterSize = 4096;  // bytes of all arguments of a kernel

 private:
  friend struct _cl_platform_id;

  _cl_platform_id* const platform_;
  const std::uint32_t index_;
  mirrorcl::Mutex mutex_;
  // Filled at the first question; they do not change any more then.
  std::optional<mirrorcl::icd::DeviceFacts> facts_ MIRRORCL_GUARDED_BY(mutex_);
  std::optional<mirrorcl::Result<mirrorcl::icd::DeviceChoice>> choice_ MIRRORCL_GUARDED_BY(mutex_);
  std::optional<mirrorcl::Result<void>> compiler_availability_ MIRRORCL_GUARDED_BY(mutex_);
};
