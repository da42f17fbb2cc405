// SPDX-License-Identifier: Apache-2.0
// The driver's threads in the application besides the mirror's:
//
// The host worker drives what no application thread waits for: host commands (copies, fills, maps) behind kernels,
// dependencies between queues, printed text. It sleeps until the device completes a packet that asks for a notice
// (Packet::kNotify), or until it is given something.
//
// The callback thread runs the application's callbacks of events and builds, so that a slow one holds up nothing else.
// The build thread runs builds for which the application gave a callback.
//
// All are started at first need and detached: they must not hold up the exit of the process. All signals are blocked
// in them, so that the application's handlers never run there.
#pragma once

#include <CL/cl.h>

#include <deque>
#include <functional>
#include <vector>

#include "base/mutex.h"
#include "icd/core/command_queue.h"
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

  // Before any other call.
  void set_device(device::CpuDevice& device) noexcept { device_ = &device; }
  // Has `queue` looked at, now and after each notice of the device, until it has nothing left that needs the worker.
  // Any thread, without a queue's lock.
  void watch(Ref<_cl_command_queue> queue);
  // Has all watched queues looked at now.
  void wake() noexcept;

 private:
  void run();

  device::CpuDevice* device_ = nullptr;
  Mutex mutex_;
  bool started_ MIRRORCL_GUARDED_BY(mutex_) = false;
  std::vector<Ref<_cl_command_queue>> arrived_ MIRRORCL_GUARDED_BY(mutex_);
};

// A thread that is started with its first task.
class TaskThread {
 public:
  explicit TaskThread(const char* name) noexcept : name_(name) {}
  // Runs `task` after all tasks posted before it.
  void post(std::function<void()> task);

 private:
  void run();
  // The task that was posted first; waits for one.
  std::function<void()> take();

  const char* const name_;
  Mutex mutex_;
  ConditionVariable arrived_;
  bool started_ MIRRORCL_GUARDED_BY(mutex_) = false;
  std::deque<std::function<void()>> tasks_ MIRRORCL_GUARDED_BY(mutex_);
};

// Of the application's callbacks.
TaskThread& callback_thread() noexcept;
// Of builds that the application does not wait for.
TaskThread& build_thread() noexcept;

}  // namespace mirrorcl::icd
