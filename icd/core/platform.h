// SPDX-License-Identifier: Apache-2.0
// The platform "MirrorCL": one per process, with one device or as many as MIRRORCL_DEVICES says. Making it costs
// nothing: no thread, no file, no device process.
#pragma once

#include <CL/cl.h>

#include <array>
#include <span>
#include <string_view>

#include "device/window.h"
#include "icd/core/device.h"
#include "icd/core/object.h"

struct _cl_platform_id : mirrorcl::icd::Object<_cl_platform_id> {
 public:
  // Made at the first call, never destroyed.
  static _cl_platform_id& get() noexcept;

  // One where kernels run on the ATS device, which cannot be had more than once.
  std::span<_cl_device_id> devices() noexcept;

  // clIcdSetPlatformDispatchDataKHR: every object made from now on carries `data`.
  void set_loader_data(void* data) noexcept;

 private:
  _cl_platform_id() noexcept;

  std::array<_cl_device_id, mirrorcl::window::kMaxDevices> devices_;
};
