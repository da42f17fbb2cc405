// SPDX-License-Identifier: Apache-2.0
#include "icd/core/device.h"

#include <algorithm>
#include <vector>

#include "base/log.h"
#include "base/options.h"
#include "compiler/client.h"
#include "device/window.h"
#include "icd/core/machine.h"
#include "icd/core/platform.h"
#include "icd/core/runtime.h"

using mirrorcl::Result;
using mirrorcl::ScopedLock;

_cl_device_id::_cl_device_id(_cl_platform_id* platform, std::uint32_t index) noexcept
    : Object(nullptr), platform_(platform), index_(index) {}

const mirrorcl::icd::DeviceFacts& _cl_device_id::facts() {
  ScopedLock lock(mutex_);
  if (!facts_) {
    facts_ = mirrorcl::icd::read_machine();
    const auto count = static_cast<cl_uint>(platform_->devices().size());
    const cl_uint units = facts_->compute_units;
    facts_->compute_units = std::max(units / count + (index_ < units % count ? 1 : 0), 1U);
    facts_->unified_memory =
        !mirrorcl::options().private_memory || mirrorcl::options().device == mirrorcl::DeviceKind::kAts;
    facts_->memory_size = facts_->memory_size / count / mirrorcl::window::kPageSize * mirrorcl::window::kPageSize;
  }
  return *facts_;
}

const Result<mirrorcl::icd::DeviceChoice>& _cl_device_id::availability() {
  ScopedLock lock(mutex_);
  if (!choice_) {
    choice_ = mirrorcl::icd::choose_device();
    if (!*choice_) mirrorcl::log_error("the device is not available: {}", choice_->error().message);
  }
  return *choice_;
}

const Result<void>& _cl_device_id::compiler_availability() {
  ScopedLock lock(mutex_);
  if (!compiler_availability_) {
    compiler_availability_ = mirrorcl::compiler::Client::probe();
    if (!*compiler_availability_) {
      mirrorcl::log_error("the compiler is not available: {}", compiler_availability_->error().message);
    }
  }
  return *compiler_availability_;
}

std::string _cl_device_id::version() {
  std::vector<std::string> remarks;
  // What runs knows better than what was expected to run.
  const mirrorcl::icd::Runtime* runtime = mirrorcl::icd::Runtime::if_started();
  if (const auto& expected = availability(); !expected) {
    remarks.push_back("not available: " + expected.error().message);
  } else if (const auto& choice = runtime != nullptr ? runtime->choice() : *expected; choice.ats) {
    remarks.push_back("ATS device: " + choice.reason);
  } else if (!choice.without.empty()) {
    remarks.push_back(choice.without);
  }
  if (const auto& compiler = compiler_availability(); !compiler) {
    remarks.push_back("no compiler: " + compiler.error().message);
  }
  std::string text = "OpenCL 3.0 MirrorCL " MIRRORCL_VERSION;
  for (std::size_t i = 0; i < remarks.size(); ++i) text += (i == 0 ? " (" : "; ") + remarks[i];
  return remarks.empty() ? text : text + ")";
}

Result<mirrorcl::icd::Runtime*> _cl_device_id::runtime() {
  if (const auto& available = availability(); !available) return tl::unexpected(available.error());
  return mirrorcl::icd::Runtime::get();
}
