// SPDX-License-Identifier: Apache-2.0
// The one thread that drives what no application thread waits for: host commands (copies, fills, maps) behind kernels,
// dependencies between queues, event callbacks, printed text. It sleeps until the device completes a packet that asks
// for a notice (Packet::kNotify), or until kick().
#pragma once

#include <CL/cl.h>

#include <atomic>
#include <deque>
#include <functional>
#include <mutex>

#include "icd/core/object.h"

namespace mirrorcl::device {
class CpuDevice;
}

namespace mirrorcl::icd {

class HostWorker {
 public:
  HostWorker() = default;
  HostWorker(const HostWorker&) = delete;
  HostWorker& operator=(const HostWorker&) = delete;

  // Starts the thread (detached: it must not hold up the exit of the process). All signals are blocked in it, so that
  // the application's handlers never run there.
  void start(device::CpuDevice& device);

  // Has `queue` looked at until it has nothing left to do that needs the worker. Any thread, no lock needed or taken
  // beyond the worker's own.
  void watch(Ref<_cl_command_queue> queue);
  // Runs `task` in the worker (event callbacks of user events).
  void post(std::function<void()> task);

 private:
  void run(device::CpuDevice& device);

  std::mutex mutex_;
  std::deque<Ref<_cl_command_queue>> watched_;  // guarded by mutex_
  std::deque<std::function<void()>> tasks_;     // guarded by mutex_
  device::CpuDevice* device_ = nullptr;
};

}  // namespace mirrorcl::icd
