// SPDX-License-Identifier: Apache-2.0
// Events, which are also the commands: every command of a queue is an _cl_event, seen by the application only if it
// asked for one. A user event is one without a queue.
//
//   queued ---------> submitted ---------> running ---------> complete, or a negative status
//           (its dependencies are met       (the device or a host
//            and it went to the device)      thread works on it)
//
// While a kernel is with the device its status and times live in a device::Signal in shared memory and are read from
// there, so that polling alone sees them change. Retirement, under the queue's lock, copies them here, writes out what
// the kernel printed, frees what the launch held and tells dependants and callbacks.
//
// Abnormal termination (the numbers of CL_EVENT_COMMAND_EXECUTION_STATUS, a documented error code as 5.11 asks):
//   CL_OUT_OF_RESOURCES                            the kernel did something that the device refused, or the device
//   process died CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST   an event in the command's wait list ended abnormally
// Later commands of the queue that do not name the failed one in their wait lists run on, and clFinish returns
// CL_SUCCESS; clWaitForEvents returns CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST.
#pragma once

#include <CL/cl.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "device/packet.h"
#include "icd/core/object.h"

struct _cl_mem;

namespace mirrorcl::icd {

// CLOCK_MONOTONIC in nanoseconds, the clock of the device's times.
std::uint64_t now_ns() noexcept;

using EventCallback = void(CL_CALLBACK*)(cl_event, cl_int, void*);

// What a kernel launch holds until it is retired.
struct Launch {
  device::Packet packet{};                   // as submitted, or to be
  std::vector<Ref<_cl_mem>> memory_objects;  // arguments
  Ref<_cl_kernel> kernel;
};

class EventSink;

}  // namespace mirrorcl::icd

struct _cl_event : mirrorcl::icd::Object<_cl_event> {
 public:
  template <typename T>
  using Ref = mirrorcl::icd::Ref<T>;

  static _cl_event* create_user(Ref<_cl_context> context);
  // A command of `queue`, in state CL_QUEUED with its queued time taken.
  _cl_event(_cl_command_queue* queue, cl_command_type type);
  ~_cl_event();

  _cl_context* context() const noexcept { return context_.get(); }
  _cl_command_queue* queue() const noexcept { return queue_.get(); }  // null for a user event
  cl_command_type type() const noexcept { return type_; }
  bool is_user() const noexcept { return !queue_; }

  // CL_EVENT_COMMAND_EXECUTION_STATUS.
  cl_int status() const noexcept;
  bool is_final() const noexcept { return status() <= CL_COMPLETE; }
  // Blocks until the status is final and returns it. For a command it also drives the queue.
  cl_int wait();

  // clSetUserEventStatus; false if it was set before.
  bool set_user_status(cl_int status);
  // clSetEventCallback: called (possibly at once) from a thread of the driver or of the application, without locks.
  void add_callback(cl_int trigger, mirrorcl::icd::EventCallback callback, void* user_data);

  // Profiling times in CLOCK_MONOTONIC nanoseconds; valid when the status is CL_COMPLETE.
  std::uint64_t queued_ns() const noexcept { return queued_ns_; }
  std::uint64_t submit_ns() const noexcept { return submit_ns_; }
  std::uint64_t start_ns() const noexcept;
  std::uint64_t end_ns() const noexcept;

 private:
  friend struct _cl_command_queue;
  friend class mirrorcl::icd::EventSink;
};
