// SPDX-License-Identifier: Apache-2.0
// The control thread once the units run: maps what A asks for into the device's address space, and waits for A's end.
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/raw_syscall.h"
#include "device/cpu/firmware/unit.h"
#include "device/cpu/startup.h"

namespace mirrorcl::firmware {
namespace {

bool is_device_range(std::uint64_t start, std::uint64_t size) noexcept {
  const std::uint64_t end = start + size;
  return (start | size) % window::kPageSize == 0 && size != 0 && end > start && start >= window::kUserSpaceStart &&
         end <= window::kUserSpaceEnd && (end <= window::kWindow.start || start >= window::kWindow.end());
}

long serve(const device::MapRequest& request, int fd) noexcept {
  if (!is_device_range(request.start, request.size)) return -EINVAL;
  if (request.kind == device::MapRequest::kProtect) {
    return raw_syscall(SYS_mprotect, request.start, request.size, request.protection);
  }
  if (fd < 0) return -EMFILE;  // it came, but this process may not have one more
  const long mapped = raw_syscall(SYS_mmap, request.start, request.size, request.protection,
                                  MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, request.offset);
  return mapped == static_cast<long>(request.start) ? 0 : mapped;
}

// False at the end of A.
bool answer_request(int socket) noexcept {
  device::MapRequest request{};
  iovec part{&request, sizeof request};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const long size = raw_syscall(SYS_recvmsg, socket, &message, MSG_CMSG_CLOEXEC);
  if (size == -EINTR) return true;
  if (size != static_cast<long>(sizeof request)) return false;
  int fd = -1;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) memcpy(&fd, CMSG_DATA(header), sizeof fd);
  device::MapAnswer answer{request.sequence, static_cast<std::int32_t>(serve(request, fd))};
  if (fd >= 0) raw_syscall(SYS_close, fd);
  raw_syscall(SYS_sendto, socket, &answer, sizeof answer, MSG_NOSIGNAL, nullptr, 0);
  return true;
}

}  // namespace

[[noreturn]] void run_control() noexcept {
  pollfd watched[3] = {{device::kApplicationFd, POLLIN, 0},
                       {device::kSocketFd, POLLIN, 0},
                       {shares_memory ? -1 : device::kSharingFd, POLLIN, 0}};
  for (;;) {
    const long ready = raw_syscall(SYS_poll, watched, 3, -1);
    if (ready <= 0) continue;
    // In the application's own memory nothing is mapped on request; whatever becomes readable is an end.
    if (watched[0].revents != 0 || shares_memory) raw_syscall(SYS_exit_group, 0);
    for (const pollfd& socket : {watched[1], watched[2]}) {
      if (socket.revents != 0 && !answer_request(socket.fd)) raw_syscall(SYS_exit_group, 0);
    }
  }
}

}  // namespace mirrorcl::firmware
