// SPDX-License-Identifier: Apache-2.0
// In-order command queues. Commands stand in one list, oldest first:
//
//   head_ ... with the device ... | cursor_ ... not started yet ... tail_
//
// Kernels and markers whose dependencies are met, behind commands that are all with the device already, are written to
// the user-mode queue at once, by the enqueuing thread. Anything else (host commands, dependencies on other queues or
// user events, a full user-mode queue) waits at cursor_ and goes on when somebody advances the queue: an application
// thread that waits, the thread that met the dependency, or the host worker.
//
// A completed command stays in the list until somebody retires it, in order: the next enqueue, a wait, or the host
// worker if something depends on its being noticed (a callback, a dependant, printed text, a host command behind it).
// For that, and only then, a packet that asks for a notice of its completion (Packet::kNotify) is put behind it.
//
// Lock order: queue, then event; never two queues. Host commands, callbacks and what retired commands held are run and
// freed without a lock (Aftermath).
#pragma once

#include <CL/cl.h>

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "device/cpu/cpu_device.h"
#include "icd/core/event.h"
#include "icd/core/object.h"
#include "mirror/mirror.h"

namespace mirrorcl::icd {

class Aftermath;
class HostWorker;
class Runtime;

}  // namespace mirrorcl::icd

struct _cl_command_queue : mirrorcl::icd::Object<_cl_command_queue> {
 public:
  template <typename T>
  using Ref = mirrorcl::icd::Ref<T>;

  // `properties`: the list given to clCreateCommandQueueWithProperties with its terminating zero, or empty; `flags`
  // what it says of CL_QUEUE_PROPERTIES.
  static mirrorcl::Result<_cl_command_queue*> make(_cl_context& context, cl_device_id device,
                                                   mirrorcl::icd::Runtime& runtime, cl_command_queue_properties flags,
                                                   std::vector<cl_queue_properties> properties);
  ~_cl_command_queue();

  _cl_context* context() const noexcept { return context_.get(); }
  cl_device_id device() const noexcept { return device_; }
  cl_command_queue_properties flags() const noexcept { return flags_; }
  bool profiling() const noexcept { return (flags_ & CL_QUEUE_PROFILING_ENABLE) != 0; }
  const std::vector<cl_queue_properties>& properties() const noexcept { return properties_; }
  mirrorcl::icd::Runtime& runtime() const noexcept { return runtime_; }
  mirrorcl::device::CpuDevice& hardware() const noexcept { return hardware_; }

  // Puts `command` (made for this queue) behind the others and starts it if possible. The events of `wait_list` are
  // valid and of this queue's context. The queue takes over the command; keep a Ref to go on using it.
  void enqueue(_cl_event* command, std::span<const cl_event> wait_list);
  // The same, and waits for it: returns its final status. Works in the calling thread whatever stands before it.
  cl_int enqueue_and_wait(_cl_event* command, std::span<const cl_event> wait_list);
  // Blocks until every command enqueued so far is retired. CL_OUT_OF_RESOURCES if a command that the application has no
  // event of and did not wait for ended abnormally since the last call, else CL_SUCCESS.
  cl_int finish();
  // What `command`, a kernel that is going to be enqueued with `wait_list`, will have to wait for. It has no wait if it
  // can begin at once.
  mirrorcl::mirror::LaunchWait wait_of(_cl_event& command, std::span<const cl_event> wait_list);
  // The application has released the queue: whatever is under way is noticed and retired by the host worker.
  void let_go();

 private:
  friend struct _cl_event;
  friend class mirrorcl::icd::Aftermath;
  friend class mirrorcl::icd::HostWorker;

  // Which host commands an advancing thread works on itself.
  struct Driver {
    // Commands up to this sequence number, whatever they are; beyond it only short ones.
    std::uint64_t runs_up_to = 0;
    static constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();
  };

  _cl_command_queue(_cl_context& context, cl_device_id device, mirrorcl::icd::Runtime& runtime);

  void append(_cl_event* command, std::span<const cl_event> wait_list, Driver driver);
  // Waits until `target`, a command of this queue, is retired, and works for it meanwhile. Returns its status.
  cl_int drive_until(_cl_event& target);
  // Aftermath's: a command's last dependency was met.
  void advance_ready(mirrorcl::icd::Aftermath& after);
  // The host worker's: returns whether it must look again after the next notice.
  bool advance_as_worker();
  // Something depends on the completion of `command` being noticed.
  void want_notice(const _cl_event& command);

  // Lets go of mutex_ while it works on a host command, as run_on_host does.
  void advance(mirrorcl::icd::Aftermath& after, Driver driver) MIRRORCL_REQUIRES(mutex_);
  void retire_completed(mirrorcl::icd::Aftermath& after) MIRRORCL_REQUIRES(mutex_);
  void retire_with_device(_cl_event& command, std::int32_t device_status, mirrorcl::icd::Aftermath& after)
      MIRRORCL_REQUIRES(mutex_);
  void retire_at_head(_cl_event& command, cl_int status, mirrorcl::icd::Aftermath& after) MIRRORCL_REQUIRES(mutex_);
  // Starts commands at cursor_ on the device for as long as possible.
  void submit_ready(mirrorcl::icd::Aftermath& after) MIRRORCL_REQUIRES(mutex_);
  bool submit(_cl_event& command, mirrorcl::icd::Aftermath& after) MIRRORCL_REQUIRES(mutex_);
  // Nothing need come ahead of it any more.
  void end_wait(_cl_event& command) noexcept MIRRORCL_REQUIRES(mutex_);
  void fail_submission(_cl_event& command, const mirrorcl::Error& error, mirrorcl::icd::Aftermath& after)
      MIRRORCL_REQUIRES(mutex_);
  void run_on_host(_cl_event& command, mirrorcl::icd::Aftermath& after) MIRRORCL_REQUIRES(mutex_);
  bool wait_for_room(const _cl_event& command) noexcept MIRRORCL_REQUIRES(mutex_);
  void notice(std::uint64_t sequence) noexcept MIRRORCL_REQUIRES(mutex_);
  // The oldest command that is not started depends on nothing but those before it.
  bool has_ready_command() const noexcept MIRRORCL_REQUIRES(mutex_);
  bool needs_worker(Driver driver) const noexcept MIRRORCL_REQUIRES(mutex_);
  void call_worker(mirrorcl::icd::Aftermath& after, Driver driver) MIRRORCL_REQUIRES(mutex_);
  mirrorcl::device::Signal* take_signal() noexcept MIRRORCL_REQUIRES(mutex_);
  void give_back_signal(mirrorcl::device::Signal* signal) noexcept MIRRORCL_REQUIRES(mutex_);

  mirrorcl::icd::Attached<_cl_context> context_;
  const cl_device_id device_;
  mirrorcl::icd::Runtime& runtime_;
  mirrorcl::device::CpuDevice& hardware_;  // behind device_
  cl_command_queue_properties flags_ = 0;
  std::vector<cl_queue_properties> properties_;
  mirrorcl::device::Queue* ring_ = nullptr;

  mirrorcl::Mutex mutex_;
  _cl_event* head_ MIRRORCL_GUARDED_BY(mutex_) = nullptr;  // the oldest command not retired
  // The oldest command not started; commands before it are with the device.
  _cl_event* cursor_ MIRRORCL_GUARDED_BY(mutex_) = nullptr;
  _cl_event* tail_ MIRRORCL_GUARDED_BY(mutex_) = nullptr;
  // The newest command that went to the device, if it is not retired.
  _cl_event* last_with_device_ MIRRORCL_GUARDED_BY(mutex_) = nullptr;
  // Sequence numbers: of the newest command, of the newest one that is retired, of the newest one that went to the
  // device, of the newest one whose completion a notice follows, and of the newest one whose completion must be
  // noticed.
  std::uint64_t last_sequence_ MIRRORCL_GUARDED_BY(mutex_) = 0;
  std::uint64_t retired_sequence_ MIRRORCL_GUARDED_BY(mutex_) = 0;
  std::uint64_t submitted_sequence_ MIRRORCL_GUARDED_BY(mutex_) = 0;
  std::uint64_t noticed_sequence_ MIRRORCL_GUARDED_BY(mutex_) = 0;
  std::uint64_t wanted_sequence_ MIRRORCL_GUARDED_BY(mutex_) = 0;
  bool host_running_ MIRRORCL_GUARDED_BY(mutex_) = false;    // a thread works on the host command at head_
  bool watched_ MIRRORCL_GUARDED_BY(mutex_) = false;         // the host worker looks at this queue
  bool unseen_failure_ MIRRORCL_GUARDED_BY(mutex_) = false;  // for finish()
  bool let_go_ MIRRORCL_GUARDED_BY(mutex_) = false;          // let_go() was called
  std::vector<mirrorcl::device::Signal*> spare_signals_ MIRRORCL_GUARDED_BY(mutex_);
};
