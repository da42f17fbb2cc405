// SPDX-License-Identifier: Apache-2.0
// A message and a descriptor over a socket, without libc: for the firmware and for pinned threads.
#pragma once

#include <sys/socket.h>

#include <cstddef>

#include "base/raw_syscall.h"

namespace mirrorcl {

// Sends `size` bytes, and with `fd` >= 0 that descriptor along (SCM_RIGHTS). The bytes sent, or -errno; no signal.
inline long send_with_descriptor(int socket, void* data, std::size_t size, int fd) noexcept {
  iovec part{data, size};
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
  return raw_syscall(SYS_sendmsg, socket, &message, MSG_NOSIGNAL);
}

}  // namespace mirrorcl
