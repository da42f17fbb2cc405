// SPDX-License-Identifier: Apache-2.0
// The part of CpuDevice on the path of every launch: queues, signals, waiting, window memory.
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>

#include "base/futex.h"
#include "device/cpu/cpu_device_impl.h"
#include "device/cpu/startup.h"
#include "device/cpu/window_map.h"

namespace mirrorcl::device {
namespace {

constexpr std::uint64_t kChunksPerUnit = 8;

std::int64_t now_ns() noexcept {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

constexpr std::int64_t kForever = INT64_MAX;

// The units' caches own a slot that they have emptied: begin to take it over before it is needed.
void fetch_for_writing(const Packet& slot) noexcept {
  for (std::size_t offset = 0; offset < sizeof slot; offset += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(&slot) + offset, 1);
}

std::int64_t deadline_of(std::int64_t timeout_ns) noexcept {
  if (timeout_ns < 0) return kForever;
  std::int64_t end;
  return __builtin_add_overflow(now_ns(), timeout_ns, &end) ? kForever : end;
}

}  // namespace

// --- queues

Result<Queue*> CpuDeviceImpl::create_queue() {
  ScopedLock lock(host_->mutex);
  if (!host_->free_queues.empty()) {
    // Its indices go on where they were: units know packets by them.
    Queue* queue = control_.queue(host_->free_queues.back());
    host_->free_queues.pop_back();
    return queue;
  }
  ControlBlock& control = control_.block();
  const std::uint32_t index = control.queue_count.load(std::memory_order_relaxed);
  if (index >= kMaxQueues)
    return mirrorcl::fail(ErrorCode::kOutOfDeviceMemory, "the device has no more hardware queues (256)");
  control.queue_count.store(index + 1, std::memory_order_release);
  return control_.queue(index);
}

void CpuDeviceImpl::destroy_queue(Queue* queue) noexcept {
  ScopedLock lock(host_->mutex);
  host_->free_queues.push_back(static_cast<std::uint32_t>(queue - control_.queue(0)));
}

// Wakes a unit if none looks at the queues by itself. The caller has published its packet with a sequentially
// consistent store; units do the converse (see ControlBlock::spinning_units), so a packet is never missed by both.
void CpuDeviceImpl::ring() noexcept {
  ControlBlock& control = control_.block();
  if (control.spinning_units.load(std::memory_order_seq_cst) != 0) return;
  if (control.sleeping_units.load(std::memory_order_seq_cst) == 0) return;
  control.doorbell.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(&control.doorbell, 1);
}

bool CpuDeviceImpl::submit(Queue* queue, const Packet& packet) noexcept {
  const std::uint64_t index = queue->write_index.load(std::memory_order_relaxed);
  std::uint64_t& read_index = read_indices_[static_cast<std::size_t>(queue - control_.queue(0))].seen;
  if (index - read_index >= kQueueSize) {
    read_index = queue->read_index.load(std::memory_order_acquire);
    if (index - read_index >= kQueueSize) return false;
  }
  Packet& slot = queue->packets[index % kQueueSize];
  fetch_for_writing(queue->packets[(index + 2) % kQueueSize]);
  const std::uint64_t generation = std::uint64_t{static_cast<std::uint32_t>(index)} << 32;
  // A unit that still looks at the slot's former packet must find nothing to claim while the fields change.
  slot.claim.store(generation | UINT32_MAX, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  slot.code = packet.code;
  slot.arguments = packet.arguments;
  slot.printf_buffer = packet.printf_buffer;
  slot.signal = packet.signal;
  std::copy_n(packet.num_groups, 3, slot.num_groups);
  std::copy_n(packet.global_offset, 3, slot.global_offset);
  std::copy_n(packet.local_size, 3, slot.local_size);
  std::copy_n(packet.last_local_size, 3, slot.last_local_size);
  const std::uint64_t groups = packet.num_groups[0] * packet.num_groups[1] * packet.num_groups[2];
  const std::uint64_t wanted_chunks = kChunksPerUnit * unit_count_;
  slot.chunk_groups = groups == 0 ? 1 : (groups - 1) / wanted_chunks + 1;
  slot.chunk_count = groups == 0 ? 1 : static_cast<std::uint32_t>((groups - 1) / slot.chunk_groups + 1);
  slot.work_dim = packet.work_dim;
  slot.flags = packet.flags;
  slot.finished.store(0, std::memory_order_relaxed);
  slot.failed.store(0, std::memory_order_relaxed);
  slot.claim.store(generation, std::memory_order_release);
  queue->write_index.store(index + 1, std::memory_order_seq_cst);
  if (is_lost(life_.load(std::memory_order_seq_cst))) [[unlikely]] {
    drainers_.fetch_add(1, std::memory_order_seq_cst);
    if (is_lost(life_.load(std::memory_order_seq_cst))) fail_packets(queue);
    drainers_.fetch_sub(1, std::memory_order_seq_cst);
    return true;
  }
  ring();
  return true;
}

// --- signals

Result<Signal*> CpuDeviceImpl::create_signal() {
  std::uint32_t index;
  {
    ScopedLock lock(host_->mutex);
    if (!host_->free_signals.empty()) {
      index = host_->free_signals.back();
      host_->free_signals.pop_back();
    } else if (host_->signals_used < kMaxSignals) {
      index = host_->signals_used++;
    } else {
      return mirrorcl::fail(ErrorCode::kOutOfDeviceMemory, "the device has no more completion signals");
    }
  }
  Signal* signal = control_.signal(index);
  renew_signal(signal);
  return signal;
}

void CpuDeviceImpl::renew_signal(Signal* signal) noexcept {
  // Its owner is the only one to write it.
  signal->serial.store(signal->serial.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  signal->waiters.store(0, std::memory_order_relaxed);
  signal->start_ns = 0;
  signal->end_ns = 0;
  signal->error_claimed.store(0, std::memory_order_relaxed);
  signal->error = {};
  signal->status.store(static_cast<std::uint32_t>(kStatusSubmitted), std::memory_order_release);
}

void CpuDeviceImpl::destroy_signal(Signal* signal) noexcept {
  ScopedLock lock(host_->mutex);
  host_->free_signals.push_back(static_cast<std::uint32_t>(signal - control_.signal(0)));
}

std::int32_t CpuDeviceImpl::wait(Signal* signal, std::int64_t timeout_ns) noexcept {
  std::int32_t status = signal->load_status();
  if (status <= kStatusComplete || timeout_ns == 0) return status;
  const std::int64_t deadline = deadline_of(timeout_ns);
  if (spin_ns_ != 0) {
    const std::int64_t spin_end = std::min(deadline, now_ns() + spin_ns_);
    do {
      for (int i = 0; i < 64; ++i) {
        status = signal->load_status();
        if (status <= kStatusComplete) return status;
        cpu_relax();
      }
      raw_syscall(SYS_sched_yield);  // the unit may have been woken on this very CPU
    } while (now_ns() < spin_end);
  }
  signal->waiters.fetch_add(1, std::memory_order_seq_cst);
  for (;;) {
    const std::uint32_t word = signal->status.load(std::memory_order_seq_cst);
    status = static_cast<std::int32_t>(word);
    if (status <= kStatusComplete) break;
    std::int64_t left = -1;
    if (deadline != kForever) {
      left = deadline - now_ns();
      if (left <= 0) break;
    }
    futex_wait(&signal->status, word, left);
  }
  signal->waiters.fetch_sub(1, std::memory_order_seq_cst);
  return status;
}

std::int32_t CpuDeviceImpl::abort(Signal* signal, std::int64_t timeout_ns) noexcept {
  const std::int64_t deadline = deadline_of(timeout_ns);
  for (;;) {
    // A verdict is dropped by a unit that has gone on to its next work-group meanwhile; then the next round catches
    // that one.
    for (std::uint32_t i = 0; i < unit_count_; ++i) {
      UnitState& unit = control_.block().units[i];
      const auto group = static_cast<std::uint32_t>(unit.groups_run.load(std::memory_order_acquire));
      const Packet* packet = unit.packet.load(std::memory_order_relaxed);
      if (packet != nullptr && packet->signal == signal) send_verdict(i, FaultKind::kAborted, 0, group);
    }
    constexpr std::int64_t kRound = 1'000'000;
    std::int32_t status = wait(signal, std::clamp<std::int64_t>(deadline - now_ns(), 0, kRound));
    if (status <= kStatusComplete || now_ns() >= deadline) return status;
  }
}

std::uint32_t CpuDeviceImpl::completions() const noexcept {
  return shared_control().completions.load(std::memory_order_seq_cst);
}

void CpuDeviceImpl::wait_completions(std::uint32_t seen, std::int64_t timeout_ns) noexcept {
  SharedControl& shared = shared_control();
  shared.completion_waiters.fetch_add(1, std::memory_order_seq_cst);
  if (shared.completions.load(std::memory_order_seq_cst) == seen) futex_wait(&shared.completions, seen, timeout_ns);
  shared.completion_waiters.fetch_sub(1, std::memory_order_seq_cst);
}

void CpuDeviceImpl::wake_completions() noexcept {
  SharedControl& shared = shared_control();
  shared.completions.fetch_add(1, std::memory_order_seq_cst);
  if (shared.completion_waiters.load(std::memory_order_seq_cst) != 0) futex_wake(&shared.completions, INT32_MAX);
}

// --- window memory

void* CpuDeviceImpl::allocate(std::size_t bytes) noexcept {
  return host_->window_memory->allocate(bytes);
}

void CpuDeviceImpl::free(void* memory) noexcept {
  host_->window_memory->free(memory);
}

void* CpuDeviceImpl::allocate_code(std::size_t bytes) noexcept {
  return host_->window_memory->allocate_code(bytes);
}

void CpuDeviceImpl::free_code(void* memory) noexcept {
  const std::uint64_t size = host_->window_memory->code_size(memory);
  if (size == 0) return;
  make_writable(memory, size);
  host_->window_memory->free_code(memory);
}

std::uint64_t CpuDeviceImpl::firmware_symbol(const char* name) const noexcept {
  return host_->window_memory->symbol(name);
}

}  // namespace mirrorcl::device
