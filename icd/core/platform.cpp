// SPDX-License-Identifier: Apache-2.0
#include "icd/core/platform.h"

#include <new>

_cl_platform_id::_cl_platform_id() noexcept : Object(nullptr), device_(this) {}

_cl_platform_id& _cl_platform_id::get() noexcept {
  // Never destroyed: applications release objects from their own exit handlers.
  alignas(_cl_platform_id) static std::byte memory[sizeof(_cl_platform_id)];
  static _cl_platform_id* const platform = ::new (memory) _cl_platform_id;
  return *platform;
}

void _cl_platform_id::set_loader_data(void* data) noexcept {
  set_dispatch_data(data);
  device_.set_dispatch_data(data);
}
