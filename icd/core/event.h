// SPDX-License-Identifier: Apache-2.0
// Events, which are also the commands: every command of a queue is an _cl_event, shown to the application only if it
// asked for one. A user event is one without a queue.
//
//   queued ----------> submitted ----------> running ----------> complete, or a negative status
//           dependencies        a unit or a            retired: dependants and
//           are met             host thread begins     callbacks are told
//
// While a kernel is with the device its status and times live in a device::Signal in shared memory and are read from
// there, so that polling alone sees them change. Retirement, under the queue's lock, copies them here, writes out what
// the kernel printed, frees what the launch held and tells dependants and callbacks. The status of a kernel that prints
// is shown as complete only then.
//
// Abnormal termination (CL_EVENT_COMMAND_EXECUTION_STATUS; OpenCL 3.0, 5.11):
//   CL_OUT_OF_RESOURCES                            the kernel did something that the device refused, or the device
//                                                  process died; the log has the reason
//   CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST   an event in the command's wait list ended abnormally; the command
//                                                  did not run
//   any other                                      what the application gave a user event
// Later commands of the queue that do not name the failed one in their wait lists run on. clWaitForEvents returns
// CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST. clFinish returns CL_OUT_OF_RESOURCES, once, if a command that was not
// blocking and for which the application asked no event ended abnormally, since it could not learn of it otherwise;
// else CL_SUCCESS.
#pragma once

#include <CL/cl.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/futex.h"
#include "base/mutex.h"
#include "device/cpu/cpu_device.h"
#include "icd/core/kernel.h"
#include "icd/core/launch.h"
#include "icd/core/object.h"

namespace mirrorcl::icd {

class Aftermath;

using EventCallback = void(CL_CALLBACK*)(cl_event, cl_int, void*);

// CLOCK_MONOTONIC in nanoseconds, the clock of the device's times and of clGetHostTimer.
std::uint64_t now_ns() noexcept;

// What a host command does: returns CL_COMPLETE or a negative status. Runs without locks.
using HostWork = std::function<cl_int()>;

// How a command is worked on.
enum class CommandKind : std::uint8_t {
  kKernel,     // a packet in the user-mode queue
  kMarker,     // nothing to do: an empty packet behind kernels, else complete when its turn comes
  kHost,       // work of a host thread
  kHostShort,  // the same, and so short that the enqueuing thread may do it when its turn has come
};

// A status that threads wait for. It lies in the application's heap, whose pages move and become coherent: hence
// private futexes, which std::atomic does not use.
class AwaitedStatus {
 public:
  explicit AwaitedStatus(cl_int status) noexcept : word_(static_cast<std::uint32_t>(status)) {}
  cl_int load() const noexcept { return static_cast<cl_int>(word_.load(std::memory_order_acquire)); }
  void store(cl_int status) noexcept { word_.store(static_cast<std::uint32_t>(status), std::memory_order_seq_cst); }
  // Returns when it is not `seen` any more and somebody has said so, or earlier.
  void wait(cl_int seen) noexcept {
    waiters_.fetch_add(1, std::memory_order_seq_cst);
    private_futex_wait(&word_, static_cast<std::uint32_t>(seen));
    waiters_.fetch_sub(1, std::memory_order_relaxed);
  }
  void notify_all() noexcept {
    if (waiters_.load(std::memory_order_seq_cst) != 0) private_futex_wake(&word_, INT32_MAX);
  }

 private:
  FutexWord word_;
  std::atomic<std::uint32_t> waiters_{0};
};

// Where a command of a queue is. Guarded by the queue's lock; changes only in this order.
enum class CommandPhase : std::uint8_t { kWaiting, kWithDevice, kWithHost, kRetired };

}  // namespace mirrorcl::icd

struct _cl_event : mirrorcl::icd::Object<_cl_event> {
 public:
  template <typename T>
  using Ref = mirrorcl::icd::Ref<T>;

  static _cl_event* make_user(_cl_context& context);
  // A command of `queue`, queued now. Not shown yet: the API count is the queue's (see _cl_command_queue::enqueue).
  _cl_event(_cl_command_queue& queue, cl_command_type type, mirrorcl::icd::CommandKind kind);
  ~_cl_event();

  // Makes the event a handle for the application, which owns the API count from now on. At most once, before the
  // command is enqueued.
  cl_event show() noexcept;

  _cl_context* context() const noexcept { return context_; }
  _cl_command_queue* queue() const noexcept { return queue_.get(); }  // null for a user event
  cl_command_type type() const noexcept { return type_; }
  bool is_user() const noexcept { return !queue_; }

  // CL_EVENT_COMMAND_EXECUTION_STATUS.
  cl_int status() const noexcept;
  // Blocks until the status is final and returns it. For a command it also drives its queue.
  cl_int wait();

  // clSetUserEventStatus; false if it was set before.
  bool set_user_status(cl_int status);
  // clSetEventCallback: called (possibly soon) from a thread of the driver.
  void add_callback(cl_int trigger, mirrorcl::icd::EventCallback callback, void* user_data);

  // CL_PROFILING_COMMAND_...: valid when the status is CL_COMPLETE and the queue has profiling.
  std::uint64_t queued_ns() const noexcept { return queued_ns_; }
  std::uint64_t submit_ns() const noexcept { return submit_ns_; }
  std::uint64_t start_ns() const noexcept;
  std::uint64_t end_ns() const noexcept;

  // --- for the command's maker, before enqueue
  void set_work(mirrorcl::icd::HostWork work) { work_ = std::move(work); }
  // kKernel. `printf_buffer`: from CpuDevice::allocate, or null; belongs to the command from now on.
  void set_launch(mirrorcl::icd::KernelLaunchState launch, const mirrorcl::icd::Grid& grid,
                  mirrorcl::device::PrintfBuffer* printf_buffer) noexcept;

 private:
  friend struct _cl_command_queue;
  friend class mirrorcl::icd::Aftermath;

  explicit _cl_event(_cl_context& context);  // a user event
  bool has_no_work() const noexcept {
    using mirrorcl::icd::CommandKind;
    return kind_ == CommandKind::kMarker || (kind_ == CommandKind::kKernel && grid_.empty());
  }

  struct Callback {
    mirrorcl::icd::Attached<_cl_event> event;  // itself: the handle stays valid until the callback has returned
    cl_int trigger;
    mirrorcl::icd::EventCallback function;
    void* user_data;
  };

  // Has `dependant` wait for this event; false if the event is final already (*status gets the final status).
  bool add_dependant(_cl_event& dependant, cl_int* status);
  // Called for each dependency of this command that became final; hands its queue to `after` if it was the last one.
  void dependency_met(cl_int status, mirrorcl::icd::Aftermath& after);
  // A status that is not final yet: CL_SUBMITTED or CL_RUNNING.
  void set_progress(cl_int status, mirrorcl::icd::Aftermath& after);
  // The final status: tells waiters, and collects dependants and callbacks.
  void settle(cl_int status, mirrorcl::icd::Aftermath& after);
  void settle_locked(cl_int status, mirrorcl::icd::Aftermath& after) MIRRORCL_REQUIRES(mutex_);
  // Sleeps until the device is done with the command, or for a while; false if it is not with the device.
  bool wait_for_device(mirrorcl::device::CpuDevice& device);
  // Takes the signal away if nobody waits on it; whoever is the last to wait on it returns it otherwise.
  mirrorcl::device::Signal* take_signal() noexcept;

  _cl_context* context_ = nullptr;
  Ref<_cl_command_queue> queue_;
  // Keep the handles that the application may ask the event for valid: set in shown and in user events.
  mirrorcl::icd::Attached<_cl_context> shown_context_;
  mirrorcl::icd::Attached<_cl_command_queue> shown_queue_;
  cl_command_type type_ = 0;
  mirrorcl::icd::CommandKind kind_ = mirrorcl::icd::CommandKind::kMarker;
  bool shown_ = false;     // the application has a handle
  bool reported_ = false;  // a blocking call returns its status
  bool prints_ = false;    // the status is complete only after retirement

  mirrorcl::icd::AwaitedStatus status_{CL_QUEUED};          // final values only at the end
  std::atomic<mirrorcl::device::Signal*> signal_{nullptr};  // not null while the device's status counts
  std::atomic<std::uint32_t> unmet_{1};                     // dependencies not final, and one until enqueued
  std::atomic<bool> dependency_failed_{false};

  mutable mirrorcl::Mutex mutex_;
  bool settled_ MIRRORCL_GUARDED_BY(mutex_) = false;
  std::uint32_t signal_users_ MIRRORCL_GUARDED_BY(mutex_) = 0;
  bool signal_retired_ MIRRORCL_GUARDED_BY(mutex_) = false;
  std::vector<Callback> callbacks_ MIRRORCL_GUARDED_BY(mutex_);
  std::vector<Ref<_cl_event>> dependants_ MIRRORCL_GUARDED_BY(mutex_);

  // Guarded by the queue's lock, which the analysis of annotations cannot name from here.
  _cl_event* next_ = nullptr;  // in the queue's list, then in Aftermath's
  std::uint64_t sequence_ = 0;
  std::uint64_t open_wait_ = 0;  // mirror::Mirror::open_wait(); 0: none
  mirrorcl::icd::CommandPhase phase_ = mirrorcl::icd::CommandPhase::kWaiting;
  mirrorcl::device::PrintfBuffer* printf_buffer_ = nullptr;
  mirrorcl::icd::KernelLaunchState launch_;
  mirrorcl::icd::Grid grid_;
  mirrorcl::icd::HostWork work_;

  std::uint64_t queued_ns_ = 0;
  std::uint64_t submit_ns_ = 0;
  std::uint64_t start_ns_ = 0;
  std::uint64_t end_ns_ = 0;
};
