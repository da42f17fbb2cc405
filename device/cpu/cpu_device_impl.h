// SPDX-License-Identifier: Apache-2.0
// The one implementation of CpuDevice. The object itself lies in the window's firmware region, which is private memory
// of the application in A: the mirror's pinned service thread may touch it. What only application threads need, and may
// thus lie in memory that migrates, is in HostState.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "device/cpu/cpu_device.h"
#include "device/cpu/device_process.h"
#include "device/cpu/mmu.h"
#include "device/cpu/range_allocator.h"
#include "device/cpu/window_heap.h"

namespace mirrorcl::device {

class CpuDeviceImpl final : public CpuDevice {
 public:
  explicit CpuDeviceImpl(const CpuDeviceOptions& options);
  ~CpuDeviceImpl() override;
  static void* operator new(std::size_t size);
  static void operator delete(void* memory) noexcept;

  // First start: creates device memory and D.
  Result<void> initialize();

  // --- mirror::DeviceOperations; the service thread
  mirror::DeviceCapabilities capabilities() const noexcept override;
  int memory_fd() const noexcept override { return memory_.get(); }
  int fault_fd() const noexcept override { return mmu_.uffd(); }
  int next_faults(std::span<mirror::DeviceFault> faults) noexcept override;
  int lost_fd() const noexcept override { return process_.pidfd.get(); }
  void on_lost() noexcept override;
  int copy_in(mirror::Range range, const void* source) noexcept override { return mmu_.copy_in(range, source); }
  int zero_fill(mirror::Range range) noexcept override { return mmu_.zero_fill(range); }
  int copy_out(mirror::Range range, void* destination) noexcept override { return mmu_.copy_out(range, destination); }
  int map(mirror::Range range, mirror::Access access) noexcept override { return mmu_.map(range, access); }
  int protect(mirror::Range range, mirror::Access access) noexcept override { return mmu_.protect(range, access); }
  int unmap(mirror::Range range) noexcept override { return mmu_.unmap(range); }
  int replay(mirror::Range range) noexcept override { return mmu_.replay(range); }
  int fail(const mirror::DeviceFault& fault, FaultKind kind) noexcept override;

  // --- application threads
  Result<void> restart() override;
  bool lost() const noexcept override { return lost_.load(std::memory_order_acquire); }
  std::uint32_t compute_units() const noexcept override { return unit_count_; }
  int process_id() const noexcept override { return process_.pid; }
  Result<void> share(mirror::Range range) override;
  Result<void> unshare(mirror::Range range) override;
  Result<Queue*> create_queue() override;
  void destroy_queue(Queue* queue) noexcept override;
  bool submit(Queue* queue, const Packet& packet) noexcept override;
  Result<Signal*> create_signal() override;
  void destroy_signal(Signal* signal) noexcept override;
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
  void before_fork() noexcept;
  void after_fork_in_parent() noexcept;
  void after_fork_in_child() noexcept;

 private:
  struct HostState {
    std::string firmware;
    std::uint64_t memory_size = 0;
    std::unordered_map<std::string, std::uint64_t> symbols;

    std::mutex mutex;                   // guards what follows
    std::vector<mirror::Range> shared;  // sorted, neighbours merged
    std::vector<std::uint32_t> free_queues;
    std::vector<std::uint32_t> free_signals;
    std::uint32_t signals_used = 0;  // high-water mark
    RangeAllocator code{window::kCode.start, window::kCode.size, window::kPageSize};

    std::mutex restart_mutex;
    WindowHeap heap;
    // The former D's descriptors: the service thread may still be inside a call on them.
    DeviceProcess former;
  };

  void prepare_control_block() noexcept;
  Result<void> start_process();
  void fail_packets(Queue* queue) noexcept;
  void ring() noexcept;
  bool send_verdict(std::uint32_t unit, FaultKind kind, std::uint64_t address, std::uint32_t group) noexcept;

  UniqueFd memory_;
  Mmu mmu_{-1};
  DeviceProcess process_;
  std::uint32_t unit_count_ = 0;
  std::uint32_t spin_ns_ = 0;
  std::uint32_t max_spinning_ = 0;
  std::uint64_t memory_size_ = 0;
  std::array<std::uint64_t, window::kMaxUnits> fault_address_{};  // exact address of each unit's last fault
  std::array<std::uint32_t, window::kMaxUnits> fault_group_{};    // and the work-group execution that made it
  std::atomic<bool> forked_{false};                               // in the child of a fork: there is no device
  std::unique_ptr<HostState> host_;
  // Each queue's read_index when it was last looked at, so that a submission leaves the units' cache line alone unless
  // the queue seems full. Locking: the queue's owner's.
  struct alignas(64) ReadIndex {
    std::uint64_t seen = 0;
  };
  std::array<ReadIndex, kMaxQueues> read_indices_;

  alignas(64) std::atomic<bool> lost_{true};
  // Threads in the tail of submit() that may be emptying the queue of a lost device; restart() waits for them.
  alignas(64) std::atomic<std::uint32_t> drainers_{0};
};

}  // namespace mirrorcl::device
