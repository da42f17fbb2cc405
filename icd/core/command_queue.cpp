// SPDX-License-Identifier: Apache-2.0
#include "icd/core/command_queue.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "icd/core/aftermath.h"
#include "icd/core/context.h"
#include "icd/core/failure.h"
#include "icd/core/printed_text.h"
#include "icd/core/runtime.h"

using mirrorcl::Result;
using mirrorcl::ScopedLock;
using mirrorcl::icd::Aftermath;
using mirrorcl::icd::CommandKind;
using mirrorcl::icd::CommandPhase;
using mirrorcl::icd::Runtime;

namespace {

namespace device = mirrorcl::device;

// Slots of the user-mode queue that commands leave free for packets that ask for a notice.
constexpr std::uint64_t kReservedSlots = 8;
// How long an enqueuing thread waits for room before it leaves its command to the host worker. A kernel may be waiting
// for the application's next step, so this must end.
constexpr std::uint64_t kRoomWaitNs = 2'000'000;
constexpr std::size_t kSpareSignals = 64;
// How long a new queue waits for the hardware queue of one that the application has released.
constexpr std::uint64_t kRingWaitNs = 200'000'000;

Result<device::Queue*> make_ring(Runtime& runtime, device::CpuDevice& hardware) {
  auto ring = hardware.create_queue();
  const std::uint64_t start = mirrorcl::icd::now_ns();
  while (!ring && runtime.released_queues() != 0 && mirrorcl::icd::now_ns() - start < kRingWaitNs) {
    runtime.worker().wake();
    const timespec pause{0, 100'000};
    ::nanosleep(&pause, nullptr);
    ring = hardware.create_queue();
  }
  return ring;
}

}  // namespace

_cl_command_queue::_cl_command_queue(_cl_context& context, cl_device_id device, Runtime& runtime)
    : Object(context.dispatch_data()),
      context_(&context),
      device_(device),
      runtime_(runtime),
      hardware_(runtime.device(device->index())) {}

Result<_cl_command_queue*> _cl_command_queue::make(_cl_context& context, cl_device_id device, Runtime& runtime,
                                                   cl_command_queue_properties flags,
                                                   std::vector<cl_queue_properties> properties) {
  auto ring = make_ring(runtime, runtime.device(device->index()));
  if (!ring) return tl::unexpected(ring.error());
  auto* queue = new _cl_command_queue(context, device, runtime);
  queue->flags_ = flags;
  queue->properties_ = std::move(properties);
  queue->ring_ = *ring;
  return queue;
}

_cl_command_queue::~_cl_command_queue() {
  // Commands hold references to their queue, so none is left. Packets that only asked for a notice may be: they name
  // nothing of the queue, and the ring's next owner stands behind them.
  hardware_.destroy_queue(ring_);
  for (auto* signal : spare_signals_) hardware_.destroy_signal(signal);
  if (let_go_) runtime_.queue_destroyed();
}

void _cl_command_queue::enqueue(_cl_event* command, std::span<const cl_event> wait_list) {
  append(command, wait_list, Driver{});
}

cl_int _cl_command_queue::enqueue_and_wait(_cl_event* command, std::span<const cl_event> wait_list) {
  const Ref<_cl_event> keep(command);
  command->reported_ = true;
  append(command, wait_list, Driver{Driver::kAll});
  return drive_until(*command);
}

void _cl_command_queue::append(_cl_event* command, std::span<const cl_event> wait_list, Driver driver) {
  Aftermath after;
  for (cl_event event : wait_list) {
    cl_int status = CL_COMPLETE;
    if (event->add_dependant(*command, &status)) {
      if (!event->is_user()) event->queue()->want_notice(*event);
    } else if (status < 0) {
      command->dependency_failed_.store(true, std::memory_order_relaxed);
    }
  }
  ScopedLock lock(mutex_);
  command->sequence_ = ++last_sequence_;
  (tail_ != nullptr ? tail_->next_ : head_) = command;
  tail_ = command;
  if (cursor_ == nullptr) cursor_ = command;
  command->unmet_.fetch_sub(1, std::memory_order_acq_rel);
  advance(after, driver);
}

cl_int _cl_command_queue::finish() {
  Ref<_cl_event> last;
  {
    Aftermath after;
    ScopedLock lock(mutex_);
    advance(after, Driver{});
    last = Ref<_cl_event>(tail_);
  }
  if (last) drive_until(*last);
  ScopedLock lock(mutex_);
  return std::exchange(unseen_failure_, false) ? CL_OUT_OF_RESOURCES : CL_SUCCESS;
}

mirrorcl::mirror::LaunchWait _cl_command_queue::wait_of(_cl_event& command, std::span<const cl_event> wait_list) {
  const bool on_events = std::ranges::any_of(wait_list, [](cl_event event) { return event->status() > CL_COMPLETE; });
  ScopedLock lock(mutex_);
  if (!on_events && cursor_ == nullptr) {
    // It goes to the device at once, where it runs when all before it are done.
    const bool busy =
        last_with_device_ != nullptr &&
        last_with_device_->signal_.load(std::memory_order_relaxed)->load_status() > device::kStatusComplete;
    if (!busy) return {};
    return {&ring_->read_index, ring_->write_index.load(std::memory_order_relaxed)};
  }
  const mirrorcl::mirror::LaunchWait wait = runtime_.mirror()->open_wait();
  command.open_wait_ = wait.value;
  return wait;
}

void _cl_command_queue::end_wait(_cl_event& command) noexcept {
  if (command.open_wait_ != 0) runtime_.mirror()->close_wait(std::exchange(command.open_wait_, 0));
}

void _cl_command_queue::let_go() {
  Aftermath after;
  ScopedLock lock(mutex_);
  if (!std::exchange(let_go_, true)) runtime_.queue_released();
  advance(after, Driver{});
  if (tail_ == nullptr) return;
  notice(last_sequence_);
  call_worker(after, Driver{});
}

cl_int _cl_command_queue::drive_until(_cl_event& target) {
  for (;;) {
    Ref<_cl_event> holder;
    cl_int seen = CL_QUEUED;
    {
      Aftermath after;
      ScopedLock lock(mutex_);
      advance(after, Driver{target.sequence_});
      // Read under the lock: any step that this thread could take later is announced by a change of it.
      seen = target.status_.load();
      if (target.phase_ == CommandPhase::kRetired) return seen;
      if (target.phase_ == CommandPhase::kWithDevice) {
        holder = Ref<_cl_event>(&target);
      } else if (last_with_device_ != nullptr && !host_running_ &&
                 cursor_->unmet_.load(std::memory_order_acquire) == 0) {
        holder = Ref<_cl_event>(last_with_device_);
      }
    }
    if (holder) {
      holder->wait_for_device(hardware_);
    } else {
      target.status_.wait(seen);
    }
  }
}

void _cl_command_queue::advance_ready(Aftermath& after) {
  ScopedLock lock(mutex_);
  advance(after, Driver{});
}

bool _cl_command_queue::advance_as_worker() {
  Aftermath after;
  ScopedLock lock(mutex_);
  watched_ = true;
  advance(after, Driver{Driver::kAll});
  // Where the device holds up a command that is ready, the worker comes back when the device is done.
  if (has_ready_command() && last_with_device_ != nullptr) notice(submitted_sequence_);
  watched_ = wanted_sequence_ > retired_sequence_;
  return watched_;
}

void _cl_command_queue::want_notice(const _cl_event& command) {
  Aftermath after;
  ScopedLock lock(mutex_);
  if (command.phase_ == CommandPhase::kRetired) return;
  notice(command.sequence_);
  call_worker(after, Driver{});
}

void _cl_command_queue::advance(Aftermath& after, Driver driver) {
  for (;;) {
    retire_completed(after);
    if (host_running_) break;
    submit_ready(after);
    if (cursor_ == nullptr || cursor_ != head_ || cursor_->unmet_.load(std::memory_order_acquire) != 0) break;
    _cl_event& command = *cursor_;
    if (command.dependency_failed_.load(std::memory_order_relaxed)) {
      retire_at_head(command, CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, after);
    } else if (command.has_no_work()) {
      retire_at_head(command, CL_COMPLETE, after);
    } else if (command.kind_ == CommandKind::kHostShort ||
               (command.kind_ == CommandKind::kHost && command.sequence_ <= driver.runs_up_to)) {
      run_on_host(command, after);
    } else {
      break;
    }
  }
  if (needs_worker(driver)) call_worker(after, driver);
}

bool _cl_command_queue::has_ready_command() const noexcept {
  return cursor_ != nullptr && cursor_->unmet_.load(std::memory_order_acquire) == 0;
}

bool _cl_command_queue::needs_worker(Driver driver) const noexcept {
  if (wanted_sequence_ > retired_sequence_) return true;
  // A command that is ready, beyond what this thread stays for; whoever works on a host command comes back by itself.
  return has_ready_command() && !host_running_ && cursor_->sequence_ > driver.runs_up_to;
}

void _cl_command_queue::call_worker(Aftermath& after, Driver driver) {
  const bool has_turn = has_ready_command() && cursor_->sequence_ > driver.runs_up_to;
  if (has_turn && last_with_device_ != nullptr) notice(submitted_sequence_);
  if (!std::exchange(watched_, true)) {
    after.watch(Ref<_cl_command_queue>(this));
  } else if (has_turn && last_with_device_ == nullptr) {
    // It looks at this queue, but may be asleep, and no notice of the device will come.
    after.wake_worker(runtime_);
  }
}

void _cl_command_queue::retire_completed(Aftermath& after) {
  while (head_ != nullptr && head_->phase_ == CommandPhase::kWithDevice) {
    const std::int32_t status = head_->signal_.load(std::memory_order_relaxed)->load_status();
    if (status > device::kStatusComplete) return;
    retire_with_device(*head_, status, after);
  }
}

void _cl_command_queue::retire_with_device(_cl_event& command, std::int32_t device_status, Aftermath& after) {
  device::Signal* signal = command.signal_.load(std::memory_order_relaxed);
  if (profiling()) {
    command.start_ns_ = signal->start_ns;
    command.end_ns_ = signal->end_ns;
  }
  if (command.printf_buffer_ != nullptr) {
    mirrorcl::icd::write_printed_text(*command.printf_buffer_);
    hardware_.free(std::exchange(command.printf_buffer_, nullptr));
  }
  cl_int status = CL_COMPLETE;
  if (device_status < 0) {
    status = CL_OUT_OF_RESOURCES;
    after.report(context(), mirrorcl::icd::log_failure(command.launch_.kernel(), device_status, signal->error));
  }
  if (last_with_device_ == &command) last_with_device_ = nullptr;
  retire_at_head(command, status, after);
  if (device::Signal* unused = command.take_signal()) give_back_signal(unused);
}

void _cl_command_queue::retire_at_head(_cl_event& command, cl_int status, Aftermath& after) {
  head_ = command.next_;
  if (head_ == nullptr) tail_ = nullptr;
  if (cursor_ == &command) cursor_ = head_;
  command.next_ = nullptr;
  if (profiling() && command.end_ns_ == 0) {
    // Neither the device nor a host thread had anything to do for it.
    command.end_ns_ = mirrorcl::icd::now_ns();
    command.start_ns_ = command.end_ns_;
    if (command.submit_ns_ == 0) command.submit_ns_ = command.end_ns_;
  }
  command.phase_ = CommandPhase::kRetired;
  retired_sequence_ = command.sequence_;
  end_wait(command);
  if (status < 0 && !command.shown_ && !command.reported_) unseen_failure_ = true;
  command.settle(status, after);
  after.retire(command);
}

void _cl_command_queue::submit_ready(Aftermath& after) {
  while (cursor_ != nullptr && cursor_->unmet_.load(std::memory_order_acquire) == 0 &&
         !cursor_->dependency_failed_.load(std::memory_order_relaxed)) {
    _cl_event& command = *cursor_;
    // What has no work completes by itself at the head, and behind kernels is an empty packet.
    const bool to_device = command.has_no_work() ? &command != head_ : command.kind_ == CommandKind::kKernel;
    if (!to_device || !submit(command, after)) return;
  }
}

bool _cl_command_queue::wait_for_room(const _cl_event& command) noexcept {
  const auto used = [&] {
    return ring_->write_index.load(std::memory_order_relaxed) - ring_->read_index.load(std::memory_order_acquire);
  };
  if (used() < device::kQueueSize - kReservedSlots) [[likely]]
    return true;
  // Only who enqueues waits, and not where others have waited in vain before: a kernel may hold up everything behind
  // it.
  if (&command != tail_) return false;
  // Half empty, so that the next launches find room at once.
  for (const std::uint64_t start = mirrorcl::icd::now_ns(); mirrorcl::icd::now_ns() - start < kRoomWaitNs;) {
    if (used() < device::kQueueSize / 2) return true;
    const timespec pause{0, 20'000};
    ::nanosleep(&pause, nullptr);
  }
  return used() < device::kQueueSize - kReservedSlots;
}

bool _cl_command_queue::submit(_cl_event& command, Aftermath& after) {
  if (!wait_for_room(command)) return false;
  if (auto alive = runtime_.ensure_device(hardware_); !alive) {
    if (&command != head_) return false;  // fails in its turn
    fail_submission(command, alive.error(), after);
    return true;
  }
  device::Signal* signal = take_signal();
  if (signal == nullptr) {
    if (&command != head_) return false;
    fail_submission(command, {mirrorcl::ErrorCode::kOutOfDeviceMemory, "all completion signals are in use"}, after);
    return true;
  }
  device::Packet packet{};
  packet.code = command.launch_.entry();
  packet.arguments = command.launch_.arguments();
  packet.printf_buffer = command.printf_buffer_;
  packet.signal = signal;
  for (int d = 0; d < 3; ++d) {
    packet.num_groups[d] = command.grid_.num_groups[d];
    packet.global_offset[d] = command.grid_.global_offset[d];
    packet.local_size[d] = command.grid_.local_size[d];
    packet.last_local_size[d] = command.grid_.last_local_size[d];
  }
  packet.work_dim = command.grid_.work_dim;
  if (profiling()) {
    packet.flags |= device::Packet::kProfile;
    command.submit_ns_ = mirrorcl::icd::now_ns();
  }
  if (command.launch_.flush_denormals()) packet.flags |= device::Packet::kFlushDenormals;
  if (command.prints_ && wanted_sequence_ < command.sequence_) wanted_sequence_ = command.sequence_;
  if (wanted_sequence_ >= command.sequence_) {
    packet.flags |= device::Packet::kNotify;
    noticed_sequence_ = command.sequence_;
  }
  submitted_sequence_ = command.sequence_;
  end_wait(command);
  last_with_device_ = &command;
  cursor_ = command.next_;
  command.phase_ = CommandPhase::kWithDevice;
  command.signal_.store(signal, std::memory_order_release);
  command.set_progress(CL_SUBMITTED, after);
  hardware_.submit(ring_, packet);  // there is room; on a device that died meanwhile the packet fails at once
  return true;
}

void _cl_command_queue::fail_submission(_cl_event& command, const mirrorcl::Error& error, Aftermath& after) {
  mirrorcl::log_error("a command cannot be given to the device: {}", error.message);
  after.report(context(), error.message);
  retire_at_head(command, CL_OUT_OF_RESOURCES, after);
}

void _cl_command_queue::run_on_host(_cl_event& command, Aftermath& after) {
  host_running_ = true;
  command.phase_ = CommandPhase::kWithHost;
  cursor_ = command.next_;
  if (profiling()) command.submit_ns_ = mirrorcl::icd::now_ns();
  command.set_progress(CL_RUNNING, after);
  cl_int status = CL_COMPLETE;
  {
    mirrorcl::ScopedUnlock unlock(mutex_);
    if (profiling()) command.start_ns_ = mirrorcl::icd::now_ns();
    status = command.work_();
    if (profiling()) command.end_ns_ = mirrorcl::icd::now_ns();
  }
  host_running_ = false;
  retire_at_head(command, status, after);
}

void _cl_command_queue::notice(std::uint64_t sequence) noexcept {
  if (wanted_sequence_ < sequence) wanted_sequence_ = sequence;
  // A command that is not with the device yet asks for its own notice when it goes there.
  if (last_with_device_ == nullptr || noticed_sequence_ >= std::min(sequence, submitted_sequence_)) return;
  device::Packet packet{};
  packet.work_dim = 1;  // and no signal: nobody would read it
  packet.flags = device::Packet::kNotify;
  if (hardware_.submit(ring_, packet)) noticed_sequence_ = submitted_sequence_;
}

device::Signal* _cl_command_queue::take_signal() noexcept {
  if (spare_signals_.empty()) {
    auto signal = hardware_.create_signal();
    return signal ? *signal : nullptr;
  }
  device::Signal* signal = spare_signals_.back();
  spare_signals_.pop_back();
  return signal;
}

void _cl_command_queue::give_back_signal(device::Signal* signal) noexcept {
  if (spare_signals_.size() >= kSpareSignals) {
    hardware_.destroy_signal(signal);
    return;
  }
  hardware_.renew_signal(signal);
  spare_signals_.push_back(signal);
}
