// SPDX-License-Identifier: Apache-2.0
#include "icd/core/runtime.h"

#include <atomic>

#include "base/log.h"
#include "base/options.h"
#include "device/ats/ats_device.h"
#include "icd/core/memory_placement.h"
#include "icd/core/platform.h"

namespace mirrorcl::icd {
namespace {

std::atomic<Runtime*> started_runtime{nullptr};

// As clGetDeviceInfo shows it.
device::CpuDeviceOptions device_options(_cl_device_id& device) {
  device::CpuDeviceOptions result;
  result.compute_units = device.facts().compute_units;
  result.memory_size = device.facts().memory_size;
  result.private_memory = options().private_memory;
  result.spin_us = options().spin_us;
  return result;
}

}  // namespace

Result<Runtime*> Runtime::get() {
  if (Runtime* runtime = started_runtime.load(std::memory_order_acquire)) return runtime;
  // Both leaked on purpose: threads of the runtime run until the process is gone.
  static auto* mutex = new Mutex;
  static auto* outcome = new Result<Runtime*>(nullptr);
  ScopedLock lock(*mutex);
  if (outcome->has_value() && **outcome == nullptr) {
    if (auto started = start()) {
      *outcome = started->release();
      started_runtime.store(**outcome, std::memory_order_release);
      MemoryPlacement::join_in_background();
    } else {
      log_error("the device cannot be started: {}", started.error().message);
      *outcome = tl::unexpected(started.error());
    }
  }
  return *outcome;
}

Runtime* Runtime::if_started() noexcept {
  return started_runtime.load(std::memory_order_acquire);
}

Result<std::unique_ptr<Runtime>> Runtime::start() {
  auto choice = choose_device();
  if (!choice) return tl::unexpected(choice.error());
  std::unique_ptr<Runtime> runtime(new Runtime);
  if (auto reserved = device::reserve_window(); !reserved) return tl::unexpected(reserved.error());
  if (!choice->ats) {
    auto started = runtime->start_mirrored_devices();
    // Several cannot become one any more.
    const bool must = options().device == DeviceKind::kMirrored || _cl_platform_id::get().devices().size() > 1;
    if (!started && must) return tl::unexpected(started.error());
    // Something that only the device process can find out.
    if (!started) *choice = {true, started.error().message};
  }
  if (choice->ats) {
    log_at(options().device == DeviceKind::kAts ? LogLevel::kInfo : LogLevel::kWarning,
           "kernels run on the ATS device, in the application's own page tables: {}", choice->reason);
    if (auto started = runtime->start_ats_device(); !started) return tl::unexpected(started.error());
  } else if (!choice->without.empty()) {
    log_info("{}: the device takes pages by copying them, and cannot tell which ones input or output have pinned",
             choice->without);
  }
  runtime->choice_ = std::move(*choice);
  std::vector<device::CpuDevice*> devices;
  for (const auto& device : runtime->devices_) devices.push_back(device.get());
  auto allocator = svm::Allocator::create(devices);
  if (!allocator) return tl::unexpected(allocator.error());
  runtime->allocator_ = std::move(*allocator);
  runtime->worker_.set_device(runtime->any_device());
  if (options().evacuate && runtime->mirror_ != nullptr) {
    const std::vector<mirror::DeviceOperations*> mirrored(devices.begin(), devices.end());
    runtime->evacuation_ = std::make_unique<mirror::Evacuation>(*runtime->mirror_, mirrored);
  }
  return runtime;
}

Result<void> Runtime::start_mirrored_devices() {
  mirror::MirrorOptions mirror_options;
  mirror_options.spare_bytes = options().spare_memory;
  mirror_options.expect_on_busy_machine = options().launch_ahead == Options::LaunchAhead::kAlways;
  auto mirror = mirror::Mirror::start(mirror_options);
  if (!mirror) return tl::unexpected(mirror.error());
  std::vector<std::unique_ptr<device::CpuDevice>> devices;
  for (_cl_device_id& each : _cl_platform_id::get().devices()) {
    auto device = device::CpuDevice::start(device_options(each));
    if (!device) return tl::unexpected(device.error());
    devices.push_back(std::move(*device));
  }
  for (const auto& device : devices) {
    if (auto attached = (*mirror)->attach(*device); !attached) {
      mirror->reset();  // before the devices that it serves
      return attached;
    }
  }
  mirror_ = std::move(*mirror);
  devices_ = std::move(devices);
  return {};
}

Result<void> Runtime::start_ats_device() {
  auto device = device::start_ats_device(device_options(_cl_platform_id::get().devices().front()));
  if (!device) return tl::unexpected(device.error());
  devices_.push_back(std::move(*device));
  return {};
}

compiler::CodeSpace Runtime::code_space() {
  device::CpuDevice* device = &any_device();
  return {[device](std::size_t bytes) { return device->allocate_code(bytes); },
          [device](void* memory) { device->free_code(memory); },
          [device](const char* name) { return device->firmware_symbol(name); },
          [device](void* start, std::size_t bytes) { return device->make_executable(start, bytes); }};
}

Result<void> Runtime::restart_device(device::CpuDevice& device) {
  ScopedLock lock(restart_mutex_);
  if (!device.lost()) return {};
  log_warning("the device process died; starting a new one");
  if (auto restarted = device.restart(); !restarted) {
    log_error("the device cannot be started again: {}", restarted.error().message);
    return restarted;
  }
  return mirror_ != nullptr ? mirror_->attach(device) : Result<void>();
}

cl_int report(const Error& error) noexcept {
  log_error("{}", error.message);
  switch (error.code) {
    case ErrorCode::kOutOfDeviceMemory:
      return CL_MEM_OBJECT_ALLOCATION_FAILURE;
    case ErrorCode::kOutOfHostMemory:
      return CL_OUT_OF_HOST_MEMORY;
    case ErrorCode::kInvalidArgument:
      return CL_INVALID_VALUE;
    default:
      return CL_OUT_OF_RESOURCES;
  }
}

}  // namespace mirrorcl::icd
