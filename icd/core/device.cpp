// SPDX-License-Identifier: Apache-2.0
#include "icd/core/device.h"

#include "base/log.h"
#include "base/options.h"
#include "compiler/client.h"
#include "icd/core/machine.h"
#include "icd/core/runtime.h"
#include "mirror/mirror.h"

using mirrorcl::Result;

_cl_device_id::_cl_device_id(_cl_platform_id* platform) noexcept : Object(nullptr), platform_(platform) {}

const mirrorcl::icd::DeviceFacts& _cl_device_id::facts() {
  std::lock_guard lock(mutex_);
  if (!facts_) facts_ = mirrorcl::icd::read_machine();
  return *facts_;
}

const Result<void>& _cl_device_id::availability() {
  std::lock_guard lock(mutex_);
  if (!availability_) {
    if (const std::string& reason = mirrorcl::options().disable_reason; !reason.empty()) {
      availability_ = mirrorcl::fail(mirrorcl::ErrorCode::kNotSupported, reason);
    } else {
      availability_ = mirrorcl::mirror::Mirror::probe();
    }
    if (!*availability_) mirrorcl::log_error("the device is not available: {}", availability_->error().message);
  }
  return *availability_;
}

const Result<void>& _cl_device_id::compiler_availability() {
  std::lock_guard lock(mutex_);
  if (!compiler_availability_) {
    compiler_availability_ = mirrorcl::compiler::Client::probe();
    if (!*compiler_availability_) {
      mirrorcl::log_error("the compiler is not available: {}", compiler_availability_->error().message);
    }
  }
  return *compiler_availability_;
}

std::string _cl_device_id::version() {
  std::string text = "OpenCL 3.0 MirrorCL " MIRRORCL_VERSION;
  if (const auto& device = availability(); !device) {
    text += " (not available: " + device.error().message + ")";
  } else if (const auto& compiler = compiler_availability(); !compiler) {
    text += " (no compiler: " + compiler.error().message + ")";
  }
  return text;
}

Result<mirrorcl::icd::Runtime*> _cl_device_id::runtime() {
  if (const auto& available = availability(); !available) return tl::unexpected(available.error());
  return mirrorcl::icd::Runtime::get();
}
