// SPDX-License-Identifier: Apache-2.0
// The platform "MirrorCL": one per process, with one device. Making it costs nothing: no thread, no file, no device
// process.
#pragma once

#include <CL/cl.h>

#include <string_view>

#include "icd/core/device.h"
#include "icd/core/object.h"

struct _cl_platform_id : mirrorcl::icd::Object<_cl_platform_id> {
 public:
  // Made at the first call, never destroyed.
  static _cl_platform_id& get() noexcept;

  _cl_device_id& device() noexcept { return device_; }

  // clIcdSetPlatformDispatchDataKHR: every object made from now on carries `data`.
  void set_loader_data(void* data) noexcept;

 private:
  _cl_platform_id() noexcept;

  _cl_device_id device_;
};
