// SPDX-License-Identifier: Apache-2.0
// The CPU device whose process has an address space of its own, which a mirror keeps equal to the application's: D's
// page tables are driven from here through its userfaultfd and the device memory file. The object lies in the window's
// firmware region, which is private memory of the application in A, each in a slot of its own: the mirror's pinned
// service thread may touch it.
#pragma once

#include <array>
#include <memory>
#include <span>

#include "device/cpu/cpu_device_impl.h"
#include "device/cpu/map_channel.h"
#include "device/cpu/mmu.h"

namespace mirrorcl::device {

class MirroredDevice final : public CpuDeviceImpl {
 public:
  // The first start: creates device memory and D.
  static Result<std::unique_ptr<CpuDevice>> create(const CpuDeviceOptions& options);
  ~MirroredDevice() override;
  static void operator delete(void* memory) noexcept;

  // --- mirror::DeviceOperations; the service thread
  mirror::DeviceCapabilities capabilities() const noexcept override;
  std::uint64_t memory_in_use() const noexcept override { return mmu_.memory_in_use(); }
  int memory_fd() const noexcept override { return memory_.get(); }
  int fault_fd() const noexcept override { return mmu_.uffd(); }
  int next_faults(std::span<mirror::DeviceFault> faults) noexcept override;
  int copy_in(mirror::Range range, const void* source) noexcept override { return mmu_.copy_in(range, source); }
  mirror::Progress copy_in_mapped(mirror::Range range, const void* source, mirror::Access access) noexcept override {
    return mmu_.copy_in_mapped(range, source, access);
  }
  int zero_fill(mirror::Range range) noexcept override { return mmu_.zero_fill(range); }
  int copy_out(mirror::Range range, void* destination) noexcept override { return mmu_.copy_out(range, destination); }
  int map(mirror::Range range, mirror::Access access) noexcept override { return mmu_.map(range, access); }
  int protect(mirror::Range range, mirror::Access access) noexcept override { return mmu_.protect(range, access); }
  int unmap(mirror::Range range) noexcept override { return mmu_.unmap(range); }
  int vacate(mirror::Range range) noexcept override { return mmu_.vacate(range); }
  void free_kept() noexcept override { mmu_.free_kept(); }
  void* allocate_block(std::uint64_t address) noexcept override { return mmu_.allocate_block(address); }
  int map_block(std::uint64_t address) noexcept override;
  int replay(mirror::Range range) noexcept override { return mmu_.replay(range); }
  int map_file(mirror::Range range, int fd, std::uint64_t offset, mirror::Access access) noexcept override;
  int unmap_file(mirror::Range range) noexcept override;
  int fail(const mirror::DeviceFault& fault, FaultKind kind) noexcept override;

  // --- application threads
  Result<void> share(mirror::Range range) override;
  Result<void> share_of(const CpuDevice& owner, mirror::Range range) override;
  Result<void> share_file(int memory, mirror::Range range) override;
  Result<void> unshare(mirror::Range range) override;
  void after_fork_in_child() noexcept override;

 private:
  Result<DeviceProcess> launch() override;
  Result<void> adopt_process() override;
  void disown_process() noexcept override;

  MirroredDevice(std::uint32_t slot, const CpuDeviceOptions& options);
  // In the slot's part of the firmware region.
  static void* operator new(std::size_t size, std::uint32_t slot) noexcept;
  Result<void> initialize();

  // 0 or -errno.
  int map_file_through(MapChannel& channel, mirror::Range range, int fd, std::uint64_t offset,
                       mirror::Access access) noexcept;
  int unmap_file_through(MapChannel& channel, mirror::Range range) noexcept;
  // Locking: host_->mutex.
  int map_shared(const SharedRange& shared) noexcept;

  const bool private_memory_;
  UniqueFd memory_;
  MapChannel service_channel_;
  MapChannel sharing_channel_;  // of the application's threads; guarded by host_->mutex
  UniqueFd own_pagemap_;
  Mmu mmu_;
  std::array<std::uint64_t, window::kMaxUnits> fault_address_{};  // exact address of each unit's last fault
  std::array<std::uint32_t, window::kMaxUnits> fault_group_{};    // and the work-group execution that made it
};

}  // namespace mirrorcl::device
