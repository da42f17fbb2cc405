// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/mirrored_device.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/memory_file.h"
#include "device/cpu/window_map.h"

namespace mirrorcl::device {
namespace {

using mirror::Access;
using mirror::DeviceFault;
using mirror::Range;

// Of the firmware region, in A.
constexpr std::uint64_t kObjectSpace = window::kFirmware.size / window::kMaxDevices;
// At the end of that: the MMU's tables.
constexpr std::uint64_t kTablesSize = mirror::page_up(LargeBlocks::kBytes);
static_assert(sizeof(MirroredDevice) + kTablesSize <= kObjectSpace);

constexpr std::uint64_t object_space(std::uint32_t slot) {
  return window::kFirmware.start + slot * kObjectSpace;
}
constexpr window::Region tables(std::uint32_t slot) {
  return {object_space(slot) + kObjectSpace - kTablesSize, kTablesSize};
}
// Where the mirror's service thread sees a block of the device's memory.
constexpr Range view(std::uint32_t slot) {
  return {window::kViews.start + (8 + slot) * mirror::kBlockSize, mirror::kBlockSize};
}

}  // namespace

void* MirroredDevice::operator new(std::size_t, std::uint32_t slot) noexcept {
  return reinterpret_cast<void*>(object_space(slot));
}

void MirroredDevice::operator delete(void* memory) noexcept {
  release_slot(
      static_cast<std::uint32_t>((reinterpret_cast<std::uint64_t>(memory) - window::kFirmware.start) / kObjectSpace));
}

Result<std::unique_ptr<CpuDevice>> MirroredDevice::create(const CpuDeviceOptions& options) {
  const std::optional<std::uint32_t> slot = claim_slot();
  if (!slot) return window_is_taken();
  std::unique_ptr<MirroredDevice> device(new (*slot) MirroredDevice(*slot, options));
  if (auto started = device->initialize(); !started) return tl::unexpected<Error>(started.error());
  return std::unique_ptr<CpuDevice>(std::move(device));
}

Result<std::unique_ptr<CpuDevice>> CpuDevice::start(const CpuDeviceOptions& options) {
  if (auto reserved = reserve_window(); !reserved) return tl::unexpected<Error>(reserved.error());
  return MirroredDevice::create(options);
}

MirroredDevice::MirroredDevice(std::uint32_t slot, const CpuDeviceOptions& options)
    : CpuDeviceImpl(slot, options),
      private_memory_(options.private_memory),
      mmu_(-1, reinterpret_cast<void*>(tables(slot).start), view(slot)) {}

MirroredDevice::~MirroredDevice() {
  shut_down();
}

Result<void> MirroredDevice::initialize() {
  auto memory = create_huge_page_file("mirrorcl-device-memory", window::kDeviceMemoryFileSize);
  if (!memory) return tl::unexpected<Error>(memory.error());
  if (!memory->refusal.empty()) {
    log_info("device memory has huge pages only where transparent_hugepage/shmem_enabled gives them: {}",
             memory->refusal);
  }
  memory_ = std::move(memory->fd);
  mmu_.set_memory(memory_.get());
  mmu_.limit_kept(memory_size_ / 32);
  // Another device may have been here before.
  if (int error = renew_region(tables(slot_), PROT_READ | PROT_WRITE); error != 0) {
    return fail_errno("cannot map the device's tables", error);
  }
  own_pagemap_.reset(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!own_pagemap_) log_info("device memory has no huge pages: /proc/self/pagemap: {}", strerrordesc_np(errno));
  return start_first_process();
}

Result<DeviceProcess> MirroredDevice::launch() {
  return start_device_process(host_->firmware, slot_, window_fd(), memory_.get());
}

Result<void> MirroredDevice::adopt_process() {
  mmu_.set_pagemaps(process_.pagemap.get(), own_pagemap_.get());
  if (!process_.pagemap) {
    log_info("device memory has no huge pages: /proc/self/pagemap of the device process: {}",
             strerrordesc_np(process_.pagemap_error));
  }
  mmu_.set_uffd(process_.uffd.get());
  service_channel_.connect(process_.socket.get(), process_.pidfd.get());
  ScopedLock lock(host_->mutex);
  sharing_channel_.connect(process_.sharing_socket.get(), process_.pidfd.get());
  for (const SharedRange& shared : host_->shared) {
    if (int error = map_shared(shared); error != 0) {
      return fail_errno("sharing memory with the new device process", -error);
    }
  }
  return {};
}

void MirroredDevice::disown_process() noexcept {
  mmu_.set_uffd(-1);
  mmu_.set_pagemaps(-1, own_pagemap_.get());
  service_channel_.connect(-1, -1);
  sharing_channel_.connect(-1, -1);
}

mirror::DeviceCapabilities MirroredDevice::capabilities() const noexcept {
  return {.memory_cpu_mappable = !private_memory_,
          .native_atomics = true,
          .parallel_copies = true,
          .memory_size = memory_size_};
}

// --- faults

int MirroredDevice::next_faults(std::span<DeviceFault> faults) noexcept {
  std::array<uffd_msg, 64> messages;
  int count = mmu_.read_faults(std::span(messages).first(std::min(messages.size(), faults.size())));
  if (count < 0) return count;
  std::size_t found = 0;
  for (int i = 0; i < count; ++i) {
    const uffd_msg& message = messages[static_cast<std::size_t>(i)];
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    const std::uint64_t flags = message.arg.pagefault.flags;
    const std::uint32_t thread = message.arg.pagefault.feat.ptid;
    std::uint32_t unit = 0;
    while (unit < unit_count_ && control_.block().units[unit].thread_id.load(std::memory_order_relaxed) != thread)
      ++unit;
    DeviceFault& fault = faults[found++];
    fault.address = message.arg.pagefault.address / window::kPageSize * window::kPageSize;
    fault.access =
        (flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0 ? Access::kReadWrite : Access::kRead;
    fault.protection = (flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
    fault.requester = unit;
    if (unit == unit_count_) continue;
    // The unit is asleep in this fault until something wakes it, so this names the execution that made it.
    fault_address_[unit] = message.arg.pagefault.address;
    fault_group_[unit] =
        static_cast<std::uint32_t>(control_.block().units[unit].groups_run.load(std::memory_order_relaxed));
  }
  return static_cast<int>(found);
}

int MirroredDevice::fail(const DeviceFault& fault, FaultKind kind) noexcept {
  // An access of the control thread would be a bug of the firmware; there is nobody to tell.
  if (fault.requester >= unit_count_) return -EINVAL;
  std::uint64_t address = fault.address;
  const std::uint64_t exact = fault_address_[fault.requester];
  if (exact / window::kPageSize == address / window::kPageSize) address = exact;
  send_verdict(fault.requester, kind, address, fault_group_[fault.requester]);
  return 0;
}

// --- whole blocks

int MirroredDevice::map_block(std::uint64_t address) noexcept {
  if (!mmu_.has_table(address)) return mmu_.map_block(address);
  // A new mapping has no page table.
  const int error =
      map_file_through(service_channel_, {address, mirror::kBlockSize}, memory_.get(), address, Access::kReadWrite);
  if (error == 0) mmu_.block_is_mapped(address);
  return error;
}

// --- files

int MirroredDevice::map_file(Range range, int fd, std::uint64_t offset, Access access) noexcept {
  return map_file_through(service_channel_, range, fd, offset, access);
}

int MirroredDevice::unmap_file(Range range) noexcept {
  return unmap_file_through(service_channel_, range);
}

int MirroredDevice::map_file_through(MapChannel& channel, Range range, int fd, std::uint64_t offset,
                                     Access access) noexcept {
  const std::uint32_t protection = access == Access::kReadWrite ? PROT_READ | PROT_WRITE : PROT_READ;
  const int error = channel.ask({0, MapRequest::kMap, protection, range.start, range.size, offset}, fd);
  // What slept in a fault on the former mapping finds the new one.
  return error != 0 ? error : mmu_.replay(range);
}

int MirroredDevice::unmap_file_through(MapChannel& channel, Range range) noexcept {
  // Not accessible until accesses fault to us again, or D would find zeros there of which nobody knows.
  int error = channel.ask({0, MapRequest::kMap, PROT_NONE, range.start, range.size, range.start}, memory_.get());
  if (error == 0) error = mmu_.register_again(range);
  if (error == 0)
    error = channel.ask({0, MapRequest::kProtect, PROT_READ | PROT_WRITE, range.start, range.size, 0}, -1);
  if (error != 0 && has_ended(process_.pidfd)) return 0;
  return error;
}

// --- memory shared from birth

int MirroredDevice::map_shared(const SharedRange& shared) noexcept {
  if (shared.memory == memory_.get()) return mmu_.unregister(shared.range);
  return map_file_through(sharing_channel_, shared.range, shared.memory, shared.range.start, Access::kReadWrite);
}

Result<void> MirroredDevice::share(Range range) {
  return share_file(memory_.get(), range);
}

Result<void> MirroredDevice::share_of(const CpuDevice& owner, Range range) {
  return share_file(owner.memory_fd(), range);
}

Result<void> MirroredDevice::share_file(int memory, Range range) {
  ScopedLock lock(host_->mutex);
  const SharedRange shared{range, memory};
  if (shared.memory < 0) return mirrorcl::fail(ErrorCode::kNotSupported, "the device has no memory to be shared");
  if (int error = map_shared(shared); error != 0) return fail_errno("sharing memory with the device", -error);
  host_->shared.add(range, shared.memory);
  return {};
}

Result<void> MirroredDevice::unshare(Range range) {
  ScopedLock lock(host_->mutex);
  // Also where the memory is the device's own: it need not be of one kind.
  if (int error = unmap_file_through(sharing_channel_, range); error != 0) {
    return fail_errno("taking shared memory back from the device", -error);
  }
  host_->shared.remove(range);
  if (int error = mmu_.free_shared(range); error != 0) return fail_errno("freeing device memory", -error);
  return {};
}

// --- fork

void MirroredDevice::after_fork_in_child() noexcept {
  memory_.reset();
  mmu_.set_memory(-1);
  CpuDeviceImpl::after_fork_in_child();
}

}  // namespace mirrorcl::device
