// SPDX-License-Identifier: Apache-2.0
// What every CpuDevice is made of, whatever address space its units run in: the process, queues, signals and window
// memory. What a mirror's pinned threads touch lies in the object; what only application threads need, and may thus lie
// in memory that migrates, in HostState.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "device/cpu/cpu_device.h"
#include "device/cpu/device_process.h"
#include "device/cpu/shared_ranges.h"
#include "device/cpu/window_memory.h"

namespace mirrorcl::device {

class CpuDeviceImpl : public CpuDevice {
 public:
  CpuDeviceImpl(std::uint32_t slot, const CpuDeviceOptions& options);
  ~CpuDeviceImpl() override;

  // --- mirror::DeviceOperations; the service thread
  int lost_fd() const noexcept override { return process_.pidfd.get(); }
  void on_lost() noexcept override;

  // --- application threads
  Result<void> restart() override;
  bool lost() const noexcept override { return is_lost(life_.load(std::memory_order_acquire)); }
  std::uint32_t compute_units() const noexcept override { return unit_count_; }
  int process_id() const noexcept override { return process_.pid; }
  Result<Queue*> create_queue() override;
  void destroy_queue(Queue* queue) noexcept override;
  bool submit(Queue* queue, const Packet& packet) noexcept override;
  Result<Signal*> create_signal() override;
  void destroy_signal(Signal* signal) noexcept override;
  void renew_signal(Signal* signal) noexcept override;
  std::int32_t wait(Signal* signal, std::int64_t timeout_ns) noexcept override;
  std::int32_t abort(Signal* signal, std::int64_t timeout_ns) noexcept override;
  std::uint32_t completions() const noexcept override;
  void wait_completions(std::uint32_t seen, std::int64_t timeout_ns) noexcept override;
  void wake_completions() noexcept override;
  void* allocate(std::size_t bytes) noexcept override;
  void free(void* memory) noexcept override;
  void* allocate_code(std::size_t bytes) noexcept override;
  void free_code(void* memory) noexcept override;
  std::uint64_t firmware_symbol(const char* name) const noexcept override;

  // --- fork (fork_handlers.cpp keeps the order)
  void before_fork() noexcept MIRRORCL_NO_THREAD_ANALYSIS;  // what it locks, the next two unlock
  void after_fork_in_parent() noexcept MIRRORCL_NO_THREAD_ANALYSIS;
  virtual void after_fork_in_child() noexcept;
  // What it shares with the other devices; locked meanwhile.
  WindowMemory& window_memory() noexcept { return *host_->window_memory; }

 protected:
  // The window has room for window::kMaxDevices devices, each in a slot of its own, or for one that needs it all.
  // Nothing if it is taken.
  static std::optional<std::uint32_t> claim_slot() noexcept;
  static void release_slot(std::uint32_t slot) noexcept;
  static bool claim_window() noexcept;
  static void release_window() noexcept;
  static tl::unexpected<Error> window_is_taken();

  // Empties the slot of a former device's queues and signals, and starts the first process.
  Result<void> start_first_process();
  // Ends the process and everything that waits for it. For destructors.
  void shut_down() noexcept;
  bool send_verdict(std::uint32_t unit, FaultKind kind, std::uint64_t address, std::uint32_t group) noexcept;

  struct HostState {
    std::string firmware;
    std::shared_ptr<WindowMemory> window_memory;

    Mutex mutex;
    SharedRanges shared MIRRORCL_GUARDED_BY(mutex);  // with MirroredDevice: memory that D never faults on
    std::vector<std::uint32_t> free_queues MIRRORCL_GUARDED_BY(mutex);
    std::vector<std::uint32_t> free_signals MIRRORCL_GUARDED_BY(mutex);
    std::uint32_t signals_used MIRRORCL_GUARDED_BY(mutex) = 0;  // high-water mark

    Mutex restart_mutex;
    // The former D's descriptors: the service thread may still be inside a call on them.
    DeviceProcess former;
  };

  const std::uint32_t slot_;
  const DeviceControl control_;
  DeviceProcess process_;
  std::uint32_t unit_count_ = 0;
  std::uint64_t memory_size_ = 0;
  std::atomic<bool> forked_{false};  // in the child of a fork: there is no device
  std::unique_ptr<HostState> host_;

 private:
  // Starts the firmware; the control block is prepared.
  virtual Result<DeviceProcess> launch() = 0;
  // process_ is a new process, whose units do not take packets yet.
  virtual Result<void> adopt_process() = 0;
  // The process has begun to take packets: on_lost() must be called when it has ended, by somebody.
  virtual Result<void> watch_process() { return {}; }
  // No process is there any more.
  virtual void disown_process() noexcept = 0;
  // Code space that has been freed is about to be used anew.
  virtual void make_writable(void* /*start*/, std::size_t /*bytes*/) noexcept {}

  static bool is_lost(std::uint64_t life) noexcept { return (life & 1) != 0; }
  bool take_loss() noexcept;
  void fail_everything() noexcept;
  void prepare_control_block() noexcept;
  Result<void> start_process();
  void fail_packets(Queue* queue) noexcept;
  void fail_all_packets() noexcept;
  void finish_for(const UnitState& unit) noexcept;
  void ring() noexcept;

  std::uint32_t spin_ns_ = 0;
  std::uint32_t max_spinning_ = 0;
  // Each queue's read_index when it was last looked at, so that a submission leaves the units' cache line alone unless
  // the queue seems full. Locking: the queue's owner's.
  struct alignas(64) ReadIndex {
    std::uint64_t seen = 0;
  };
  std::array<ReadIndex, kMaxQueues> read_indices_;

  // Counts deaths and starts: even while a process lives, odd when it is lost.
  alignas(64) std::atomic<std::uint64_t> life_{1};
  // Threads in the tail of submit() that may be emptying the queue of a lost device; restart() waits for them.
  alignas(64) std::atomic<std::uint32_t> drainers_{0};
  // Threads in on_lost(); restart() waits for them too.
  std::atomic<std::uint32_t> failing_{0};
};

}  // namespace mirrorcl::device
