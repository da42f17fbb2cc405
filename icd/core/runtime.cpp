// SPDX-License-Identifier: Apache-2.0
#include "icd/core/runtime.h"

#include <atomic>

#include "base/log.h"
#include "base/options.h"

namespace mirrorcl::icd {
namespace {

std::atomic<Runtime*> started_runtime{nullptr};

}  // namespace

Result<Runtime*> Runtime::get() {
  if (Runtime* runtime = started_runtime.load(std::memory_order_acquire)) return runtime;
  // Both leaked on purpose: threads of the runtime run until the process is gone.
  static auto* mutex = new std::mutex;
  static auto* outcome = new Result<Runtime*>(nullptr);
  std::lock_guard lock(*mutex);
  if (outcome->has_value() && **outcome == nullptr) {
    if (auto started = start()) {
      *outcome = started->release();
      started_runtime.store(**outcome, std::memory_order_release);
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
  if (!options().disable_reason.empty()) return fail(ErrorCode::kNotSupported, options().disable_reason);
  std::unique_ptr<Runtime> runtime(new Runtime);
  if (auto reserved = device::reserve_window(); !reserved) return tl::unexpected(reserved.error());
  auto mirror = mirror::Mirror::start();
  if (!mirror) return tl::unexpected(mirror.error());
  runtime->mirror_ = std::move(*mirror);
  device::CpuDeviceOptions device_options;
  device_options.compute_units = options().compute_units;
  device_options.memory_size = options().device_memory;
  device_options.spin_us = options().spin_us;
  auto started = device::CpuDevice::start(device_options);
  if (!started) return tl::unexpected(started.error());
  runtime->device_ = std::move(*started);
  if (auto attached = runtime->mirror_->attach(*runtime->device_); !attached) return tl::unexpected(attached.error());
  auto allocator = svm::Allocator::create(*runtime->device_);
  if (!allocator) return tl::unexpected(allocator.error());
  runtime->allocator_ = std::move(*allocator);
  runtime->worker_.set_device(*runtime->device_);
  return runtime;
}

compiler::CodeSpace Runtime::code_space() {
  return {[this](std::size_t bytes) { return device_->allocate_code(bytes); },
          [this](void* memory) { device_->free_code(memory); },
          [this](const char* name) { return device_->firmware_symbol(name); }};
}

Result<void> Runtime::restart_device() {
  std::lock_guard lock(restart_mutex_);
  if (!device_->lost()) return {};
  log_warning("the device process died; starting a new one");
  if (auto restarted = device_->restart(); !restarted) {
    log_error("the device cannot be started again: {}", restarted.error().message);
    return restarted;
  }
  return mirror_->attach(*device_);
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
