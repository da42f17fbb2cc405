// SPDX-License-Identifier: Apache-2.0
#include "icd/core/context.h"

#include <algorithm>

#include "base/log.h"

using mirrorcl::ScopedLock;
using mirrorcl::icd::ClResult;
using mirrorcl::icd::ContextDescription;

ClResult<_cl_context*> _cl_context::make(ContextDescription description) {
  for (cl_device_id device : description.devices) {
    const auto& available = device->availability();
    if (available) continue;
    const std::string message = "MirrorCL: the device is not available: " + available.error().message;
    mirrorcl::log_error("clCreateContext: {}", message);
    if (description.error_callback != nullptr) {
      description.error_callback(message.c_str(), nullptr, 0, description.user_data);
    }
    return tl::unexpected<cl_int>(CL_DEVICE_NOT_AVAILABLE);
  }
  return new _cl_context(std::move(description));
}

_cl_context::_cl_context(ContextDescription description)
    : Object(description.devices.front()->dispatch_data()), description_(std::move(description)) {}

_cl_context::~_cl_context() {
  for (auto callback = destructor_callbacks_.rbegin(); callback != destructor_callbacks_.rend(); ++callback) {
    callback->function(this, callback->user_data);
  }
}

bool _cl_context::has_device(cl_device_id device) const noexcept {
  return std::ranges::find(devices(), device) != devices().end();
}

cl_ulong _cl_context::max_allocation() const {
  cl_ulong most = 0;
  for (cl_device_id device : devices()) most = std::max(most, device->max_allocation());
  return most;
}

void _cl_context::report_error(const std::string& message) const noexcept {
  if (description_.error_callback != nullptr) {
    description_.error_callback(message.c_str(), nullptr, 0, description_.user_data);
  }
}

void _cl_context::add_destructor_callback(mirrorcl::icd::ContextDestructorCallback callback, void* user_data) {
  ScopedLock lock(mutex_);
  destructor_callbacks_.push_back({callback, user_data});
}
