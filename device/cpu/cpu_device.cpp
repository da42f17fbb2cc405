// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/cpu_device.h"

#include <errno.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>

#include "base/futex.h"
#include "base/log.h"
#include "base/memory_limit.h"
#include "base/paths.h"
#include "device/cpu/cpu_device_impl.h"
#include "device/cpu/fork_handlers.h"
#include "device/cpu/startup.h"
#include "device/cpu/window_map.h"

namespace mirrorcl::device {
namespace {

std::uint32_t usable_cpus() {
  cpu_set_t set;
  // Of the process's first thread: the calling one may be bound to a CPU of its own.
  if (sched_getaffinity(getpid(), sizeof set, &set) != 0) return 1;
  return static_cast<std::uint32_t>(std::max(CPU_COUNT(&set), 1));
}

std::uint64_t half_of_memory() {
  return usable_memory() / 2 / window::kPageSize * window::kPageSize;
}

}  // namespace

const char* fault_kind_name(FaultKind kind) noexcept {
  switch (kind) {
    case FaultKind::kNone:
      return "no fault";
    case FaultKind::kInvalidAddress:
      return "invalid address";
    case FaultKind::kReadOnly:
      return "write to read-only memory";
    case FaultKind::kUnmappable:
      return "memory that a device cannot use";
    case FaultKind::kOutOfMemory:
      return "out of device memory";
    case FaultKind::kIntegerDivide:
      return "integer division by zero or overflow";
    case FaultKind::kIllegalInstruction:
      return "illegal instruction";
    case FaultKind::kTrap:
      return "trap instruction";
    case FaultKind::kStackOverflow:
      return "stack overflow";
    case FaultKind::kForbiddenCall:
      return "system call";
    case FaultKind::kUnknown:
      return "unknown fault";
    case FaultKind::kMisaligned:
      return "misaligned vector access";
    case FaultKind::kAborted:
      return "aborted";
  }
  return "unknown fault";
}

namespace {

// A set bit: the slot is taken.
std::atomic<std::uint32_t> g_slots{0};
constexpr std::uint32_t kAllSlots = (std::uint32_t{1} << window::kMaxDevices) - 1;
// Pointers to the devices' HostStates where a leak checker looks for pointers, which it does not in the window.
[[gnu::used]] std::array<const void*, window::kMaxDevices> g_host_state_roots{};

}  // namespace

std::optional<std::uint32_t> CpuDeviceImpl::claim_slot() noexcept {
  std::uint32_t taken = g_slots.load();
  for (;;) {
    const auto slot = static_cast<std::uint32_t>(std::countr_one(taken));
    if (slot >= window::kMaxDevices) return std::nullopt;
    if (g_slots.compare_exchange_weak(taken, taken | std::uint32_t{1} << slot)) return slot;
  }
}

void CpuDeviceImpl::release_slot(std::uint32_t slot) noexcept {
  g_slots.fetch_and(~(std::uint32_t{1} << slot));
}

bool CpuDeviceImpl::claim_window() noexcept {
  std::uint32_t none = 0;
  return g_slots.compare_exchange_strong(none, kAllSlots);
}

void CpuDeviceImpl::release_window() noexcept {
  g_slots.store(0);
}

tl::unexpected<Error> CpuDeviceImpl::window_is_taken() {
  return mirrorcl::fail(ErrorCode::kNotSupported,
                        fmt::format("the window has no room for another CPU device: it holds {} that have address "
                                    "spaces of their own, or one that runs in the application's",
                                    window::kMaxDevices));
}

CpuDeviceImpl::CpuDeviceImpl(std::uint32_t slot, const CpuDeviceOptions& options)
    : slot_(slot), control_(slot), host_(std::make_unique<HostState>()) {
  const std::uint32_t cpus = usable_cpus();
  unit_count_ = std::clamp(options.compute_units != 0 ? options.compute_units : cpus, 1U, window::kMaxUnits);
  memory_size_ = options.memory_size != 0 ? options.memory_size : half_of_memory();
  spin_ns_ = std::min(options.spin_us, 1'000'000U) * 1000;
  // Idle units leave a CPU to the application's threads.
  max_spinning_ = std::max(cpus, 2U) - 1;
  g_host_state_roots[slot] = host_.get();
  host_->firmware = options.firmware.empty() ? private_file("mirrorcl-firmware") : options.firmware;
}

CpuDeviceImpl::~CpuDeviceImpl() = default;

void CpuDeviceImpl::shut_down() noexcept {
  remove_fork_target(*this);
  if (forked_.load()) return;
  life_.fetch_or(1);
  end_device_process(process_);
  if (!process_.pidfd) return;
  // Nothing writes to the window now; whoever still waits must not wait for ever.
  fail_all_packets();
  disown_process();
}

// While no D lives.
void CpuDeviceImpl::prepare_control_block() noexcept {
  ControlBlock& control = control_.block();
  control.unit_count = unit_count_;
  control.spin_ns = spin_ns_;
  control.max_spinning = max_spinning_;
  control.active.store(0);
  control.sleeping_units.store(0);
  control.spinning_units.store(0);
  for (UnitState& unit : control.units) {
    unit.thread_id.store(0);
    unit.fault.store(0);
    unit.packet.store(nullptr);
    unit.finishing.store(nullptr);
  }
  *control_.last_words() = 0;
}

Result<void> CpuDeviceImpl::start_first_process() {
  discard_window_memory(reinterpret_cast<void*>(control_.region().start), control_.region().size);
  host_->window_memory = WindowMemory::get();
  if (auto started = start_process(); !started) return started;
  add_fork_target(*this);
  return {};
}

// Locking: none, or restart_mutex.
Result<void> CpuDeviceImpl::start_process() {
  prepare_control_block();
  auto process = launch();
  if (!process) return tl::unexpected<Error>(process.error());

  WindowMemory::Symbols symbols;
  const FirmwareSymbol* published = control_.symbols();
  for (std::uint32_t i = 0; i < std::min(process->symbol_count, kMaxSymbols); ++i) {
    symbols.emplace(std::string(published[i].name, strnlen(published[i].name, sizeof published[i].name)),
                    published[i].address);
  }
  if (!host_->window_memory->agree_on_symbols(std::move(symbols))) {
    end_device_process(*process);
    return mirrorcl::fail(
        ErrorCode::kNotSupported,
        fmt::format("the device firmware {} was replaced while programs built for the former one are in use; "
                    "start the application again",
                    host_->firmware));
  }

  std::swap(host_->former, process_);
  process_ = std::move(*process);
  if (auto adopted = adopt_process(); !adopted) {
    end_device_process(process_);
    return adopted;
  }
  life_.fetch_add(1, std::memory_order_seq_cst);
  // A submission that found the device lost may still be emptying its queue, which D must not look at meanwhile.
  while (drainers_.load(std::memory_order_seq_cst) != 0) sched_yield();
  control_.block().active.store(1, std::memory_order_seq_cst);
  control_.block().doorbell.fetch_add(1);
  futex_wake(&control_.block().doorbell, 1);
  if (auto watched = watch_process(); !watched) {
    end_device_process(process_);
    on_lost();
    return watched;
  }
  log_debug("device process {} runs {} compute units", process_.pid, unit_count_);
  return {};
}

Result<void> CpuDeviceImpl::restart() {
  if (forked_.load())
    return mirrorcl::fail(ErrorCode::kDeviceLost, "the device belongs to the parent of this forked process");
  ScopedLock lock(host_->restart_mutex);
  if (!has_ended(process_.pidfd)) return {};
  on_lost();
  // Whoever fails the packets of the process that has ended must not meet those of the next one.
  while (failing_.load(std::memory_order_seq_cst) != 0) sched_yield();
  reap_if_ours(process_);
  return start_process();
}

bool CpuDeviceImpl::send_verdict(std::uint32_t unit, FaultKind kind, std::uint64_t address,
                                 std::uint32_t group) noexcept {
  UnitState& state = control_.block().units[unit];
  state.fault_address.store(address, std::memory_order_relaxed);
  state.fault_group.store(group, std::memory_order_relaxed);
  state.fault.store(static_cast<std::uint32_t>(kind), std::memory_order_release);
  // Its number may be somebody else's by now if it has ended.
  if (has_ended(process_.pidfd)) return false;
  return raw_syscall(SYS_tgkill, process_.pid, state.thread_id.load(std::memory_order_relaxed), kAbortSignal) == 0;
}

// --- loss

// Empties the queue of a lost device. Several threads may do so at once: each packet is failed by the one that moves
// read_index past it, which therefore still owns the slot when it reads it. Touches window memory only.
void CpuDeviceImpl::fail_packets(Queue* queue) noexcept {
  for (std::uint32_t guard = 0; guard <= kQueueSize; ++guard) {
    std::uint64_t index = queue->read_index.load(std::memory_order_seq_cst);
    if (index == queue->write_index.load(std::memory_order_seq_cst)) return;
    const Packet& packet = queue->packets[index % kQueueSize];
    Signal* signal = packet.signal;
    const bool notify = (packet.flags & Packet::kNotify) != 0;
    if (!queue->read_index.compare_exchange_strong(index, index + 1, std::memory_order_seq_cst)) continue;
    // The kernel that killed D may have overwritten the packet.
    if (control_.is_signal(signal)) {
      signal->status.store(static_cast<std::uint32_t>(kStatusDeviceLost), std::memory_order_seq_cst);
      futex_wake(&signal->status, INT32_MAX);
    }
    if (notify) wake_completions();
  }
}

void CpuDeviceImpl::fail_all_packets() noexcept {
  const std::uint32_t queues = std::min(control_.block().queue_count.load(), kMaxQueues);
  for (std::uint32_t i = 0; i < queues; ++i) fail_packets(control_.queue(i));
  for (std::uint32_t i = 0; i < unit_count_; ++i) finish_for(control_.block().units[i]);
}

// The unit has ended between taking its packet from the queue and telling that it is complete; or just after, when the
// signal may be in use for another packet already. In this order (see Signal::serial): a status above complete that is
// the unit's packet's stays so, because nobody else can end it.
void CpuDeviceImpl::finish_for(const UnitState& unit) noexcept {
  Signal* signal = unit.finishing.load(std::memory_order_acquire);
  if (signal == nullptr || !control_.is_signal(signal)) return;
  auto status = signal->status.load(std::memory_order_seq_cst);
  if (static_cast<std::int32_t>(status) > kStatusComplete &&
      signal->serial.load(std::memory_order_acquire) == unit.finishing_serial.load(std::memory_order_relaxed)) {
    signal->status.compare_exchange_strong(status, static_cast<std::uint32_t>(kStatusDeviceLost),
                                           std::memory_order_seq_cst);
  }
  futex_wake(&signal->status, INT32_MAX);
}

void CpuDeviceImpl::on_lost() noexcept {
  failing_.fetch_add(1, std::memory_order_seq_cst);
  if (take_loss()) fail_everything();
  failing_.fetch_sub(1, std::memory_order_seq_cst);
}

// False if somebody else has it, or if the word came late, when a new D runs already.
bool CpuDeviceImpl::take_loss() noexcept {
  std::uint64_t life = life_.load(std::memory_order_seq_cst);
  return !is_lost(life) && has_ended(process_.pidfd) &&
         life_.compare_exchange_strong(life, life + 1, std::memory_order_seq_cst);
}

void CpuDeviceImpl::fail_everything() noexcept {
  char* words = control_.last_words();
  words[kLastWordsSize - 1] = 0;
  log_warning("device process {} ended unexpectedly{}{}; its running commands fail", process_.pid,
              words[0] != 0 ? ": " : "", words);
  fail_all_packets();
  wake_completions();
}

// --- fork

void CpuDeviceImpl::before_fork() noexcept {
  host_->restart_mutex.lock();
  host_->mutex.lock();
}

void CpuDeviceImpl::after_fork_in_parent() noexcept {
  host_->mutex.unlock();
  host_->restart_mutex.unlock();
}

void CpuDeviceImpl::after_fork_in_child() noexcept {
  forked_.store(true);
  life_.fetch_or(1);
  // Only descriptors: nothing here may reach D.
  disown_process();
  process_ = {};
  host_->former = {};
  after_fork_in_parent();
}

}  // namespace mirrorcl::device
