// SPDX-License-Identifier: Apache-2.0
// In-order command queues. Commands stand in one list, oldest first:
//
//   head_ -> with the device (ring) ... -> cursor_ -> not started yet ... -> tail_
//
// Kernels, markers and barriers behind commands that are all in the device's user-mode queue are written there by the
// enqueuing thread, at once. Anything else (host commands, dependencies on other queues or user events, a full ring)
// waits at cursor_ and goes on when advance() is called: by a waiting application thread, by the thread that met the
// dependency, or by the host worker.
//
// Locking: mutex_ guards everything that is not atomic. Lock order: queue, then kernel, then event; never two queues.
// Host commands, callbacks and dependants of other queues run without any lock.
#pragma once

#include <CL/cl.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "base/result.h"
#include "device/packet.h"
#include "icd/core/event.h"
#include "icd/core/object.h"

namespace mirrorcl::icd {

class Runtime;

// What clEnqueueNDRangeKernel asks for, validated: sizes of unused dimensions are 1, offsets 0, and the local size is
// chosen.
struct NdRange {
  cl_uint work_dim = 1;
  std::uint64_t global_offset[3]{};
  std::uint64_t global_size[3]{1, 1, 1};
  std::uint64_t local_size[3]{1, 1, 1};
};

}  // namespace mirrorcl::icd

struct _cl_command_queue : mirrorcl::icd::Object<_cl_command_queue> {
 public:
  template <typename T>
  using Ref = mirrorcl::icd::Ref<T>;

  // `properties`: the list given to clCreateCommandQueueWithProperties with its terminating zero, or empty.
  // Starts the runtime if need be.
  static mirrorcl::Result<_cl_command_queue*> create(Ref<_cl_context> context, cl_device_id device,
                                                     cl_command_queue_properties flags,
                                                     std::vector<cl_queue_properties> properties);
  ~_cl_command_queue();

  _cl_context* context() const noexcept { return context_.get(); }
  cl_device_id device() const noexcept { return device_; }
  cl_command_queue_properties flags() const noexcept { return flags_; }
  bool profiling() const noexcept { return (flags_ & CL_QUEUE_PROFILING_ENABLE) != 0; }
  const std::vector<cl_queue_properties>& properties() const noexcept { return properties_; }

 private:
  friend struct _cl_event;

  Ref<_cl_context> context_;
  cl_device_id device_ = nullptr;
  cl_command_queue_properties flags_ = 0;
  std::vector<cl_queue_properties> properties_;
};
