// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/mmu.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "base/memory_file.h"
#include "base/raw_syscall.h"
#include "device/window.h"

namespace mirrorcl::device {
namespace {

using mirror::Access;
using mirror::Range;

// Newer than Debian 12's headers.
constexpr std::uint64_t kContinueModeWriteProtect = 2;  // UFFDIO_CONTINUE_MODE_WP

}  // namespace

int Mmu::control(unsigned long request, void* argument) noexcept {
  int fd = uffd();
  if (fd < 0) return 0;
  long result = raw_syscall(SYS_ioctl, fd, request, argument);
  return result == -ESRCH ? 0 : static_cast<int>(result);
}

int Mmu::read_faults(std::span<uffd_msg> messages) noexcept {
  int fd = uffd();
  if (fd < 0) return 0;
  long result = raw_syscall(SYS_read, fd, messages.data(), messages.size_bytes());
  if (result == -EAGAIN || result == -EINTR) return 0;
  return static_cast<int>(result < 0 ? result : result / static_cast<long>(sizeof(uffd_msg)));
}

std::uint64_t Mmu::memory_in_use() const noexcept {
  return memory_file_in_use(memory_);
}

int Mmu::copy_in(Range range, const void* source) noexcept {
  return write_memory_file(memory_, range.start, source, range.size);
}

mirror::Progress Mmu::copy_in_mapped(Range range, const void* source, Access access) noexcept {
  std::uint64_t done = 0;
  while (done < range.size) {
    const Range rest{range.start + done, range.size - done};
    const auto* from = static_cast<const char*>(source) + done;
    uffdio_copy request{};
    request.dst = rest.start;
    request.src = reinterpret_cast<std::uint64_t>(from);
    request.len = rest.size;
    request.mode = access == Access::kRead ? UFFDIO_COPY_MODE_WP : 0;
    const int fd = uffd();
    const long result = fd < 0 ? -ESRCH : raw_syscall(SYS_ioctl, fd, UFFDIO_COPY, &request);
    if (result == 0) break;
    if (request.copy > 0) {
      done += static_cast<std::uint64_t>(request.copy);
      continue;
    }
    if (result != -ESRCH && result != -EEXIST) return {done, static_cast<int>(result)};
    // No process there: the memory outlives it. Or a device page that exists already, which COPY leaves alone.
    const Range now = result == -ESRCH ? rest : Range{rest.start, window::kPageSize};
    int error = copy_in(now, from);
    if (error == 0) error = map(now, access);
    if (error != 0) return {done, error};
    done += now.size;
  }
  return {range.size, 0};
}

int Mmu::copy_out(Range range, void* destination) noexcept {
  return read_memory_file(memory_, range.start, destination, range.size);
}

int Mmu::zero_fill(Range range) noexcept {
  return fill_memory_file(memory_, range.start, range.size);
}

int Mmu::write_protect(Range range, std::uint64_t mode) noexcept {
  uffdio_writeprotect request{{range.start, range.size}, mode};
  return control(UFFDIO_WRITEPROTECT, &request);
}

int Mmu::map(Range range, Access access) noexcept {
  if (access == Access::kNone) return -EINVAL;
  bool left_alone = false;
  for (std::uint64_t at = range.start; at < range.end();) {
    const bool protect_now = access == Access::kRead && can_install_protected_.load(std::memory_order_relaxed);
    const bool protect_after = access == Access::kRead && !protect_now;
    uffdio_continue request{};
    request.range = {at, range.end() - at};
    request.mode = (protect_now ? kContinueModeWriteProtect : 0) | (protect_after ? UFFDIO_CONTINUE_MODE_DONTWAKE : 0);
    int result = control(UFFDIO_CONTINUE, &request);
    const std::uint64_t done = result == 0          ? range.end() - at
                               : request.mapped > 0 ? static_cast<std::uint64_t>(request.mapped)
                                                    : 0;
    if (done != 0) {
      if (protect_after) {
        // Another unit may write through the new mapping before it is protected; kernels before 6.4 know no better.
        if (int failed = write_protect({at, done}, UFFDIO_WRITEPROTECT_MODE_WP); failed != 0) return failed;
        if (int failed = replay({at, done}); failed != 0) return failed;
      }
      at += done;
      continue;
    }
    switch (result) {
      case -EEXIST:  // mapped already
      case -EFAULT:  // no device page
        left_alone = true;
        at += window::kPageSize;
        break;
      case -EINVAL:
        if (!protect_now) return result;
        can_install_protected_.store(false, std::memory_order_relaxed);
        break;
      default:
        return result;
    }
  }
  // Somebody may wait for a page that another fault's service had mapped, and CONTINUE wakes only those that it maps
  // itself.
  return left_alone ? replay(range) : 0;
}

int Mmu::protect(Range range, Access access) noexcept {
  if (access == Access::kNone) return -EINVAL;
  return write_protect(range, access == Access::kRead ? UFFDIO_WRITEPROTECT_MODE_WP : 0);
}

int Mmu::unmap(Range range) noexcept {
  return punch_memory_file(memory_, range.start, range.size);
}

int Mmu::replay(Range range) noexcept {
  uffdio_range request{range.start, range.size};
  return control(UFFDIO_WAKE, &request);
}

int Mmu::unregister(Range range) noexcept {
  uffdio_range request{range.start, range.size};
  return control(UFFDIO_UNREGISTER, &request);
}

int Mmu::register_again(Range range) noexcept {
  uffdio_register request{};
  request.range = {range.start, range.size};
  request.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP;
  return control(UFFDIO_REGISTER, &request);
}

}  // namespace mirrorcl::device
