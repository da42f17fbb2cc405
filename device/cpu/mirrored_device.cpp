// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/mirrored_device.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <new>

#include "base/log.h"
#include "base/raw_syscall.h"
#include "device/cpu/window_map.h"

namespace mirrorcl::device {
namespace {

using mirror::Access;
using mirror::DeviceFault;
using mirror::Range;

}  // namespace

void* MirroredDevice::operator new(std::size_t, const std::nothrow_t&) noexcept {
  static_assert(sizeof(MirroredDevice) <= window::kFirmware.size);
  return claim_window() ? reinterpret_cast<void*>(window::kFirmware.start) : nullptr;
}

void MirroredDevice::operator delete(void*) noexcept {
  release_window();
}

Result<std::unique_ptr<CpuDevice>> CpuDevice::start(const CpuDeviceOptions& options) {
  if (auto reserved = reserve_window(); !reserved) return tl::unexpected<Error>(reserved.error());
  std::unique_ptr<MirroredDevice> device(new (std::nothrow) MirroredDevice(options));
  if (!device) {
    return mirrorcl::fail(ErrorCode::kNotSupported, "this process has a CPU device already; the window holds one");
  }
  if (auto started = device->initialize(); !started) return tl::unexpected<Error>(started.error());
  return std::unique_ptr<CpuDevice>(std::move(device));
}

MirroredDevice::MirroredDevice(const CpuDeviceOptions& options) : CpuDeviceImpl(options) {}

MirroredDevice::~MirroredDevice() {
  shut_down();
}

Result<void> MirroredDevice::initialize() {
  auto memory = create_memory_file("mirrorcl-device-memory", window::kDeviceMemoryFileSize);
  if (!memory) return tl::unexpected<Error>(memory.error());
  memory_.reset(*memory);
  mmu_.set_memory(*memory);
  return start_first_process();
}

Result<DeviceProcess> MirroredDevice::launch() {
  return start_device_process(host_->firmware, window_fd(), memory_.get());
}

Result<void> MirroredDevice::adopt_process() {
  mmu_.set_uffd(process_.uffd.get());
  socket_.store(process_.socket.get());
  std::scoped_lock lock(host_->mutex);
  for (const Range& range : host_->shared) {
    if (int error = mmu_.unregister(range); error != 0) {
      return fail_errno("sharing memory with the new device process", -error);
    }
  }
  return {};
}

void MirroredDevice::disown_process() noexcept {
  mmu_.set_uffd(-1);
  socket_.store(-1);
}

mirror::DeviceCapabilities MirroredDevice::capabilities() const noexcept {
  return {.memory_cpu_mappable = true, .native_atomics = true, .parallel_copies = true, .memory_size = memory_size_};
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
    while (unit < unit_count_ && control_block()->units[unit].thread_id.load(std::memory_order_relaxed) != thread)
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
        static_cast<std::uint32_t>(control_block()->units[unit].groups_run.load(std::memory_order_relaxed));
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

// --- files

int MirroredDevice::map_file(Range range, int fd, std::uint64_t offset, Access access) noexcept {
  const std::uint32_t protection = access == Access::kReadWrite ? PROT_READ | PROT_WRITE : PROT_READ;
  const int error = ask({0, MapRequest::kMap, protection, range.start, range.size, offset}, fd);
  // What slept in a fault on the former mapping finds the new one.
  return error != 0 ? error : mmu_.replay(range);
}

int MirroredDevice::unmap_file(Range range) noexcept {
  // Not accessible until accesses fault to us again, or D would find zeros there of which nobody knows.
  int error = ask({0, MapRequest::kMap, PROT_NONE, range.start, range.size, range.start}, memory_.get());
  if (error == 0) error = mmu_.register_again(range);
  if (error == 0) error = ask({0, MapRequest::kProtect, PROT_READ | PROT_WRITE, range.start, range.size, 0}, -1);
  if (error != 0 && has_ended(process_.pidfd)) return 0;
  return error;
}

int MirroredDevice::ask(MapRequest request, int fd) noexcept {
  const int socket = socket_.load();
  if (socket < 0) return 0;
  request.sequence = ++requests_;
  iovec part{&request, sizeof request};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    __builtin_memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  long result = raw_syscall(SYS_sendmsg, socket, &message, MSG_NOSIGNAL);
  if (result == -EPIPE || result == -ECONNRESET) return 0;  // D has ended, and its address space with it
  if (result < 0) return static_cast<int>(result);
  for (;;) {
    pollfd watched{socket, POLLIN, 0};
    const timespec patience{10, 0};
    result = raw_syscall(SYS_ppoll, &watched, 1, &patience, nullptr, 0);
    if (result == -EINTR) continue;
    if (result == 0) {
      log_error("the device process does not answer and is ended");
      (void)raw_syscall(SYS_pidfd_send_signal, process_.pidfd.get(), SIGKILL, nullptr, 0);
      return 0;
    }
    MapAnswer answer{};
    result = raw_syscall(SYS_recvfrom, socket, &answer, sizeof answer, MSG_DONTWAIT, nullptr, nullptr);
    if (result == -EINTR || result == -EAGAIN) continue;
    if (result != static_cast<long>(sizeof answer)) return 0;
    if (answer.sequence == request.sequence) return answer.error;
  }
}

// --- memory shared from birth

Result<void> MirroredDevice::share(Range range) {
  std::scoped_lock lock(host_->mutex);
  if (int error = mmu_.unregister(range); error != 0) {
    return fail_errno("sharing memory with the device (UFFDIO_UNREGISTER)", -error);
  }
  auto& shared = host_->shared;
  auto next = std::lower_bound(shared.begin(), shared.end(), range.start,
                               [](const Range& left, std::uint64_t start) { return left.start < start; });
  if (next != shared.begin() && std::prev(next)->end() >= range.start) {
    --next;
    next->size = std::max(next->end(), range.end()) - next->start;
  } else {
    next = shared.insert(next, range);
  }
  while (std::next(next) != shared.end() && std::next(next)->start <= next->end()) {
    next->size = std::max(next->end(), std::next(next)->end()) - next->start;
    shared.erase(std::next(next));
  }
  return {};
}

Result<void> MirroredDevice::unshare(Range range) {
  std::scoped_lock lock(host_->mutex);
  if (int error = mmu_.register_again(range); error != 0) {
    return fail_errno("taking shared memory back from the device (UFFDIO_REGISTER)", -error);
  }
  std::vector<Range> left;
  for (const Range& old : host_->shared) {
    if (old.start < range.start) left.push_back({old.start, std::min(old.end(), range.start) - old.start});
    if (old.end() > range.end()) {
      const std::uint64_t start = std::max(old.start, range.end());
      left.push_back({start, old.end() - start});
    }
  }
  host_->shared = std::move(left);
  if (int error = mmu_.unmap(range); error != 0) return fail_errno("freeing device memory", -error);
  return {};
}

// --- fork

void MirroredDevice::after_fork_in_child() noexcept {
  memory_.reset();
  mmu_.set_memory(-1);
  CpuDeviceImpl::after_fork_in_child();
}

}  // namespace mirrorcl::device
