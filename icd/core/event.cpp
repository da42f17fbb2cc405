// SPDX-License-Identifier: Apache-2.0
#include "icd/core/event.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "icd/core/aftermath.h"
#include "icd/core/command_queue.h"
#include "icd/core/context.h"
#include "icd/core/runtime.h"

using mirrorcl::ScopedLock;
using mirrorcl::icd::Aftermath;
using mirrorcl::icd::Attached;

namespace mirrorcl::icd {

std::uint64_t now_ns() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace mirrorcl::icd

_cl_event::_cl_event(_cl_context& context)
    : Object(context.dispatch_data()),
      context_(&context),
      shown_context_(&context),
      type_(CL_COMMAND_USER),
      shown_(true) {
  status_.store(CL_SUBMITTED);
}

_cl_event::_cl_event(_cl_command_queue& queue, cl_command_type type, mirrorcl::icd::CommandKind kind)
    : Object(queue.dispatch_data()), context_(queue.context()), queue_(&queue), type_(type), kind_(kind) {
  if (queue.profiling()) queued_ns_ = mirrorcl::icd::now_ns();
}

_cl_event::~_cl_event() {
  // A command that was never enqueued, or whose signal was kept by a thread that waited, still holds these.
  mirrorcl::icd::Runtime* runtime = mirrorcl::icd::Runtime::if_started();
  if (is_user() && !settled_ && !dependants_.empty()) {
    // Nobody can set it any more: what waits for it will not run.
    Aftermath after;
    settle(CL_INVALID_EVENT, after);
  }
  if (runtime == nullptr) return;
  if (printf_buffer_ != nullptr) runtime->any_device().free(printf_buffer_);
  if (auto* signal = signal_.load(std::memory_order_relaxed)) queue_->hardware().destroy_signal(signal);
}

_cl_event* _cl_event::make_user(_cl_context& context) {
  return new _cl_event(context);
}

cl_event _cl_event::show() noexcept {
  shown_ = true;
  shown_context_ = Attached<_cl_context>(context_);
  shown_queue_ = Attached<_cl_command_queue>(queue_.get());
  retain();  // for the queue; the count from construction is the application's
  return this;
}

void _cl_event::set_launch(mirrorcl::icd::KernelLaunchState launch, const mirrorcl::icd::Grid& grid,
                           mirrorcl::device::PrintfBuffer* printf_buffer) noexcept {
  launch_ = std::move(launch);
  grid_ = grid;
  printf_buffer_ = printf_buffer;
  prints_ = printf_buffer != nullptr;
}

cl_int _cl_event::status() const noexcept {
  cl_int own = status_.load();
  if (own <= CL_COMPLETE) return own;
  const auto* signal = signal_.load(std::memory_order_acquire);
  if (signal == nullptr) return status_.load();
  const std::int32_t device = signal->load_status();
  // The signal may serve another command by now: only if this one was retired before, and then its status is final.
  own = status_.load();
  if (own <= CL_COMPLETE) return own;
  if (device > mirrorcl::device::kStatusComplete) return device;
  if (prints_) return CL_RUNNING;  // until its text is written
  return device == mirrorcl::device::kStatusComplete ? CL_COMPLETE : CL_OUT_OF_RESOURCES;
}

std::uint64_t _cl_event::start_ns() const noexcept {
  const auto* signal = signal_.load(std::memory_order_acquire);
  const std::uint64_t device = signal != nullptr ? signal->start_ns : 0;
  return status_.load() <= CL_COMPLETE || signal == nullptr ? start_ns_ : device;
}

std::uint64_t _cl_event::end_ns() const noexcept {
  const auto* signal = signal_.load(std::memory_order_acquire);
  const std::uint64_t device = signal != nullptr ? signal->end_ns : 0;
  return status_.load() <= CL_COMPLETE || signal == nullptr ? end_ns_ : device;
}

cl_int _cl_event::wait() {
  if (queue_) return queue_->drive_until(*this);
  for (;;) {
    const cl_int now = status_.load();
    if (now <= CL_COMPLETE) return now;
    status_.wait(now);
  }
}

bool _cl_event::set_user_status(cl_int status) {
  Aftermath after;
  ScopedLock lock(mutex_);
  if (settled_) return false;
  settle_locked(status, after);
  return true;
}

void _cl_event::add_callback(cl_int trigger, mirrorcl::icd::EventCallback callback, void* user_data) {
  Aftermath after;
  {
    ScopedLock lock(mutex_);
    const cl_int now = status();
    if (settled_ || now <= trigger) {
      after.call(Attached<_cl_event>(this), callback, now < 0 ? now : trigger, user_data);
      return;
    }
    callbacks_.push_back({Attached<_cl_event>(this), trigger, callback, user_data});
  }
  if (queue_) queue_->want_notice(*this);
}

bool _cl_event::add_dependant(_cl_event& dependant, cl_int* status_ret) {
  ScopedLock lock(mutex_);
  const cl_int now = status();
  if (now <= CL_COMPLETE) {
    *status_ret = now;
    return false;
  }
  dependant.unmet_.fetch_add(1, std::memory_order_relaxed);
  dependants_.emplace_back(&dependant);
  return true;
}

void _cl_event::dependency_met(cl_int status, Aftermath& after) {
  if (status < 0) dependency_failed_.store(true, std::memory_order_relaxed);
  if (unmet_.fetch_sub(1, std::memory_order_acq_rel) == 1) after.advance(queue_);
}

void _cl_event::set_progress(cl_int status, Aftermath& after) {
  status_.store(status);
  status_.notify_all();
  if (!shown_) return;
  ScopedLock lock(mutex_);
  std::erase_if(callbacks_, [&](Callback& callback) {
    if (callback.trigger < status) return false;
    after.call(std::move(callback.event), callback.function, callback.trigger, callback.user_data);
    return true;
  });
}

void _cl_event::settle(cl_int status, Aftermath& after) {
  ScopedLock lock(mutex_);
  settle_locked(status, after);
}

void _cl_event::settle_locked(cl_int status, Aftermath& after) {
  settled_ = true;
  status_.store(status);
  status_.notify_all();
  for (auto& dependant : std::exchange(dependants_, {})) dependant->dependency_met(status, after);
  if (callbacks_.empty()) return;
  auto callbacks = std::exchange(callbacks_, {});
  // Those for CL_SUBMITTED first, those for CL_COMPLETE last.
  std::stable_sort(callbacks.begin(), callbacks.end(),
                   [](const Callback& a, const Callback& b) { return a.trigger > b.trigger; });
  for (auto& callback : callbacks) {
    after.call(std::move(callback.event), callback.function, status < 0 ? status : callback.trigger,
               callback.user_data);
  }
}

bool _cl_event::wait_for_device(mirrorcl::device::CpuDevice& device) {
  mirrorcl::device::Signal* signal = nullptr;
  {
    ScopedLock lock(mutex_);
    signal = signal_.load(std::memory_order_relaxed);
    if (signal == nullptr || settled_) return false;
    ++signal_users_;
  }
  device.wait(signal);
  {
    ScopedLock lock(mutex_);
    if (--signal_users_ != 0 || !signal_retired_) return true;
    signal = signal_.exchange(nullptr, std::memory_order_acq_rel);
  }
  if (signal != nullptr) device.destroy_signal(signal);
  return true;
}

mirrorcl::device::Signal* _cl_event::take_signal() noexcept {
  ScopedLock lock(mutex_);
  if (signal_users_ != 0) {
    signal_retired_ = true;
    return nullptr;
  }
  return signal_.exchange(nullptr, std::memory_order_acq_rel);
}
