// SPDX-License-Identifier: Apache-2.0
#include "icd/core/platform.h"

#include <algorithm>
#include <new>

#include "base/log.h"
#include "base/options.h"
#include "icd/core/device_choice.h"
#include "icd/core/memory_placement.h"

namespace {

std::size_t count_devices() {
  constexpr std::uint32_t kMost = mirrorcl::window::kMaxDevices;
  const std::uint32_t wanted = mirrorcl::options().devices;
  if (wanted == 1) return 1;
  if (wanted > kMost) mirrorcl::log_warning("MIRRORCL_DEVICES={}: there are only {}", wanted, kMost);
  if (const auto choice = mirrorcl::icd::choose_device(); choice && choice->ats) {
    mirrorcl::log_warning("MIRRORCL_DEVICES={}: there is only one ATS device ({})", wanted, choice->reason);
    return 1;
  }
  return std::min(wanted, kMost);
}

}  // namespace

static_assert(mirrorcl::window::kMaxDevices == 4);
_cl_platform_id::_cl_platform_id() noexcept
    : Object(nullptr),
      devices_{_cl_device_id(this, 0), _cl_device_id(this, 1), _cl_device_id(this, 2), _cl_device_id(this, 3)} {}

std::span<_cl_device_id> _cl_platform_id::devices() noexcept {
  static const std::size_t count = count_devices();
  return std::span(devices_).first(count);
}

_cl_platform_id& _cl_platform_id::get() noexcept {
  // Never destroyed: applications release objects from their own exit handlers.
  alignas(_cl_platform_id) static std::byte memory[sizeof(_cl_platform_id)];
  static _cl_platform_id* const platform = [] {
    mirrorcl::init_log();
    mirrorcl::icd::MemoryPlacement::announce();
    return ::new (memory) _cl_platform_id;
  }();
  return *platform;
}

void _cl_platform_id::set_loader_data(void* data) noexcept {
  set_dispatch_data(data);
  for (_cl_device_id& device : devices_) device.set_dispatch_data(data);
}
