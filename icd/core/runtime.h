// SPDX-License-Identifier: Apache-2.0
// What stands behind every OpenCL object of the process: the mirror, the device processes, the allocator of coherent
// memory and the host worker. Started by the first call that needs them (a command queue, an SVM allocation, a buffer),
// never by loading the platform or making a context.
//
// The runtime lives as long as the process does; it is not torn down at exit. The device process ends by itself when
// the application does.
#pragma once

#include <CL/cl.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "compiler/loader.h"
#include "device/cpu/cpu_device.h"
#include "icd/core/device_choice.h"
#include "icd/core/host_worker.h"
#include "mirror/evacuation.h"
#include "mirror/mirror.h"
#include "svm/allocator.h"

namespace mirrorcl::icd {

class Runtime {
 public:
  // Starts everything at the first call. A failure is logged once, as one sentence, and returned to every later caller:
  // what cannot be had at first (permissions, the window) cannot be had later either.
  static Result<Runtime*> get();
  // The runtime if it runs already, else null. Never starts anything.
  static Runtime* if_started() noexcept;

  // As many as the platform shows.
  device::CpuDevice& device(std::uint32_t index) noexcept { return *devices_[index]; }
  std::uint32_t device_count() const noexcept { return static_cast<std::uint32_t>(devices_.size()); }
  // For what serves all devices: argument memory, code space, notices.
  device::CpuDevice& any_device() noexcept { return *devices_.front(); }
  // Null with the ATS device, which needs none.
  mirror::Mirror* mirror() noexcept { return mirror_.get(); }
  // The kind of device that was started.
  const DeviceChoice& choice() const noexcept { return choice_; }
  svm::Allocator& allocator() noexcept { return *allocator_; }
  HostWorker& worker() noexcept { return worker_; }
  // For compiler::load_kernel.
  compiler::CodeSpace code_space();

  // Queues that the application has released and that are not destroyed yet; their hardware queues are soon free.
  std::uint32_t released_queues() const noexcept { return released_queues_.load(std::memory_order_relaxed); }
  void queue_released() noexcept { released_queues_.fetch_add(1, std::memory_order_relaxed); }
  void queue_destroyed() noexcept { released_queues_.fetch_sub(1, std::memory_order_relaxed); }

  // Before each launch: if the device process died, starts a new one over the same device memory and gives it to the
  // mirror again. One load while the device lives.
  Result<void> ensure_device(device::CpuDevice& device) {
    if (!device.lost()) [[likely]]
      return {};
    return restart_device(device);
  }
  // Before each launch: the devices see every change of the address space that has been made, and the present
  // contents of memory that they see through snapshots.
  void refresh_view() noexcept {
    if (mirror_ == nullptr) return;
    mirror_->drain_events();
    mirror_->drop_snapshots();
  }

 private:
  Runtime() = default;
  static Result<std::unique_ptr<Runtime>> start();
  // Each leaves nothing running if it fails.
  Result<void> start_mirrored_devices();
  Result<void> start_ats_device();
  Result<void> restart_device(device::CpuDevice& device);

  DeviceChoice choice_;
  std::vector<std::unique_ptr<device::CpuDevice>> devices_;
  std::unique_ptr<mirror::Mirror> mirror_;
  std::unique_ptr<mirror::Evacuation> evacuation_;  // null but in the test mode
  std::unique_ptr<svm::Allocator> allocator_;
  HostWorker worker_;
  Mutex restart_mutex_;  // one restart at a time
  std::atomic<std::uint32_t> released_queues_{0};
};

// The OpenCL code for an internal error at a call that allocates memory objects, queues or SVM. Logs the sentence.
// kOutOfDeviceMemory gives CL_MEM_OBJECT_ALLOCATION_FAILURE, kOutOfHostMemory CL_OUT_OF_HOST_MEMORY,
// kInvalidArgument CL_INVALID_VALUE, all else CL_OUT_OF_RESOURCES.
cl_int report(const Error& error) noexcept;

}  // namespace mirrorcl::icd
