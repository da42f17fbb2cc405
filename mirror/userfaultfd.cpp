// SPDX-License-Identifier: Apache-2.0
#include "mirror/userfaultfd.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>

#include "base/raw_syscall.h"
#include "device/window.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {
namespace {

struct MoveArgument {  // struct uffdio_move, 6.8
  std::uint64_t destination;
  std::uint64_t source;
  std::uint64_t size;
  std::uint64_t mode;
  std::int64_t moved;
};
constexpr std::uint64_t kMoveDontWake = 1;
constexpr std::uint64_t kMoveAllowHoles = 2;
constexpr unsigned long kMoveRequest = _IOWR(UFFDIO, 0x05, MoveArgument);
constexpr unsigned long kNewFromDevice = _IO(0xAA, 0x00);  // USERFAULTFD_IOC_NEW, 6.1

constexpr std::uint64_t kRequiredFeatures =
    UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
    UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | kFeatureWpShmem;

long create_fd() noexcept {
  long fd = raw_syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0) return fd;
  long device = raw_syscall(SYS_openat, AT_FDCWD, "/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) return fd;
  long from_device = raw_syscall(SYS_ioctl, device, kNewFromDevice, O_CLOEXEC | O_NONBLOCK);
  raw_syscall(SYS_close, device);
  return from_device >= 0 ? from_device : fd;
}

tl::unexpected<Error> refused(long error) {
  switch (-error) {
    case EPERM:
      return fail(
          ErrorCode::kNotSupported,
          "this process may not handle page faults of system calls with userfaultfd; grant it with "
          "'sysctl vm.unprivileged_userfaultfd=1', read and write permission on /dev/userfaultfd, or CAP_SYS_PTRACE");
    case ENOSYS:
      return fail(
          ErrorCode::kNotSupported,
          "the userfaultfd system call is not available: the kernel was built without it or a seccomp filter (as in "
          "containers) hides it; allow userfaultfd or make /dev/userfaultfd accessible");
    default:
      return fail_errno("cannot create a userfaultfd", static_cast<int>(-error));
  }
}

// Repeats `step(offset)` until everything is done or it makes no more progress.
template <typename Step>
Progress repeat(std::uint64_t size, Step step) noexcept {
  std::uint64_t done = 0;
  while (done < size) {
    std::int64_t progress = 0;
    long error = step(done, &progress);
    if (error == 0) return {size, 0};
    // A negative progress repeats the error; a positive one is what was finished before it.
    if (progress <= 0) return {done, static_cast<int>(error)};
    done += static_cast<std::uint64_t>(progress);
  }
  return {size, 0};
}

}  // namespace

Result<Userfaultfd> Userfaultfd::open(bool use_move) {
  long probe = create_fd();
  if (probe < 0) return refused(probe);
  UniqueFd probe_fd(static_cast<int>(probe));
  // The kernel tells what it has only to a descriptor that asks for nothing, and takes one request per descriptor.
  uffdio_api api{UFFD_API, 0, 0};
  if (long error = raw_syscall(SYS_ioctl, probe_fd.get(), UFFDIO_API, &api); error < 0) return refused(error);
  if ((api.features & kRequiredFeatures) != kRequiredFeatures) {
    return fail(
        ErrorCode::kNotSupported,
        fmt::format(
            "this kernel's userfaultfd lacks features that MirrorCL needs (has {:#x}, needs {:#x}); Linux 5.19 or "
            "newer is required",
            std::uint64_t{api.features}, kRequiredFeatures));
  }
  Userfaultfd result;
  result.features_ = kRequiredFeatures | (use_move ? api.features & kFeatureMove : 0);
  long fd = create_fd();
  if (fd < 0) return refused(fd);
  result.fd_.reset(static_cast<int>(fd));
  uffdio_api wanted{UFFD_API, result.features_, 0};
  if (long error = raw_syscall(SYS_ioctl, fd, UFFDIO_API, &wanted); error < 0) {
    return fail_errno("userfaultfd refuses the features it offers", static_cast<int>(-error));
  }
  return result;
}

int Userfaultfd::register_range(Range range, std::uint64_t tracking) const noexcept {
  uffdio_register argument{{range.start, range.size}, tracking, 0};
  return static_cast<int>(raw_syscall(SYS_ioctl, fd(), UFFDIO_REGISTER, &argument));
}

int Userfaultfd::unregister_range(Range range) const noexcept {
  uffdio_range argument{range.start, range.size};
  return static_cast<int>(raw_syscall(SYS_ioctl, fd(), UFFDIO_UNREGISTER, &argument));
}

int Userfaultfd::wake(Range range) const noexcept {
  uffdio_range argument{range.start, range.size};
  return static_cast<int>(raw_syscall(SYS_ioctl, fd(), UFFDIO_WAKE, &argument));
}

int Userfaultfd::write_protect(Range range, bool protect) const noexcept {
  uffdio_writeprotect argument{{range.start, range.size}, protect ? UFFDIO_WRITEPROTECT_MODE_WP : std::uint64_t{0}};
  return static_cast<int>(raw_syscall(SYS_ioctl, fd(), UFFDIO_WRITEPROTECT, &argument));
}

// CONTINUE looks for events on their way (EAGAIN) before it refuses a range of no size (EINVAL).
bool Userfaultfd::events_on_their_way() const noexcept {
  uffdio_continue nothing{{0, 0}, 0, 0};
  return raw_syscall(SYS_ioctl, fd(), UFFDIO_CONTINUE, &nothing) == -EAGAIN;
}

// CONTINUE looks for one registered mapping (ENOENT), then for events on their way (EAGAIN), and then refuses anonymous
// memory (EINVAL).
int Userfaultfd::confirm_anonymous(Range range) const noexcept {
  uffdio_continue argument{{range.start, range.size}, UFFDIO_CONTINUE_MODE_DONTWAKE, 0};
  const auto error = static_cast<int>(raw_syscall(SYS_ioctl, fd(), UFFDIO_CONTINUE, &argument));
  return error == -EINVAL ? 0 : error == -EAGAIN ? -EAGAIN : -ENOENT;
}

int Userfaultfd::confirm_shared(Range range) const noexcept {
  uffdio_continue argument{{range.start, kPageSize}, UFFDIO_CONTINUE_MODE_DONTWAKE, 0};
  const auto error = static_cast<int>(raw_syscall(SYS_ioctl, fd(), UFFDIO_CONTINUE, &argument));
  if (error == -EEXIST || error == -EFAULT) return 0;  // mapped already, or there is no page
  return error == -EINVAL ? -ENOENT : error;
}

int Userfaultfd::confirm_registered(Range range) const noexcept {
  // Memory of the window that nobody may read: the kernel finds the destination first, and then nothing to copy.
  constexpr std::uint64_t kUnreadable = window::kViews.end() - kPageSize;
  uffdio_copy argument{range.start, kUnreadable, kPageSize, UFFDIO_COPY_MODE_DONTWAKE, 0};
  const auto error = static_cast<int>(raw_syscall(SYS_ioctl, fd(), UFFDIO_COPY, &argument));
  return error == -EFAULT ? 0 : error == -EAGAIN ? -EAGAIN : -ENOENT;
}

Progress Userfaultfd::move(std::uint64_t destination, Range source, bool skip_holes) const noexcept {
  return repeat(source.size, [&](std::uint64_t offset, std::int64_t* progress) {
    MoveArgument argument{destination + offset, source.start + offset, source.size - offset,
                          kMoveDontWake | (skip_holes ? kMoveAllowHoles : 0), 0};
    long error = raw_syscall(SYS_ioctl, fd(), kMoveRequest, &argument);
    *progress = argument.moved;
    return error;
  });
}

Progress Userfaultfd::copy(Range destination, std::uint64_t source, Wake wake, bool protect) const noexcept {
  return repeat(destination.size, [&](std::uint64_t offset, std::int64_t* progress) {
    uffdio_copy argument{destination.start + offset, source + offset, destination.size - offset,
                         (wake == Wake::kYes ? 0 : UFFDIO_COPY_MODE_DONTWAKE) | (protect ? UFFDIO_COPY_MODE_WP : 0), 0};
    long error = raw_syscall(SYS_ioctl, fd(), UFFDIO_COPY, &argument);
    *progress = argument.copy;
    return error;
  });
}

Progress Userfaultfd::zero(Range range) const noexcept {
  return repeat(range.size, [&](std::uint64_t offset, std::int64_t* progress) {
    uffdio_zeropage argument{{range.start + offset, range.size - offset}, 0, 0};
    long error = raw_syscall(SYS_ioctl, fd(), UFFDIO_ZEROPAGE, &argument);
    *progress = argument.zeropage;
    return error;
  });
}

Progress Userfaultfd::install(Range range) const noexcept {
  return repeat(range.size, [&](std::uint64_t offset, std::int64_t* progress) {
    uffdio_continue argument{{range.start + offset, range.size - offset}, 0, 0};
    long error = raw_syscall(SYS_ioctl, fd(), UFFDIO_CONTINUE, &argument);
    *progress = argument.mapped;
    return error;
  });
}

int Userfaultfd::read(std::span<uffd_msg> messages) const noexcept {
  long size = raw_syscall(SYS_read, fd(), messages.data(), messages.size_bytes());
  if (size == -EAGAIN || size == -EINTR) return 0;
  return size < 0 ? static_cast<int>(size) : static_cast<int>(static_cast<std::uint64_t>(size) / sizeof(uffd_msg));
}

}  // namespace mirrorcl::mirror
