// SPDX-License-Identifier: Apache-2.0
// Messages and descriptors over a socket, without libc: for the firmware and for pinned threads.
#pragma once

#include <errno.h>
#include <sys/socket.h>

#include <cstddef>
#include <span>

#include "base/raw_syscall.h"

namespace mirrorcl {

inline constexpr std::size_t kMostDescriptors = 2;  // in one message

// Sends `size` bytes, and descriptors along (SCM_RIGHTS). The bytes sent, or -errno; no signal.
inline long send_with_descriptors(int socket, void* data, std::size_t size, std::span<const int> fds) noexcept {
  if (fds.size() > kMostDescriptors) return -EINVAL;
  iovec part{data, size};
  alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    __builtin_memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  return raw_syscall(SYS_sendmsg, socket, &message, MSG_NOSIGNAL);
}

// The same with one descriptor, or none if `fd` < 0.
inline long send_with_descriptor(int socket, void* data, std::size_t size, int fd) noexcept {
  return send_with_descriptors(socket, data, size, std::span(&fd, fd < 0 ? 0 : 1));
}

// Takes a message of `size` bytes at most, and the descriptors that come along: they are the caller's, close on exec,
// and -1 where none came, or where this process may not have one more. The bytes received, 0 at the end, or -errno.
inline long receive_with_descriptors(int socket, void* data, std::size_t size, std::span<int> fds) noexcept {
  if (fds.size() > kMostDescriptors) return -EINVAL;
  for (int& fd : fds) fd = -1;
  iovec part{data, size};
  alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_LEN(fds.size_bytes());
  long received;
  do {
    received = raw_syscall(SYS_recvmsg, socket, &message, MSG_CMSG_CLOEXEC);
  } while (received == -EINTR);
  const cmsghdr* header = received > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) return received;
  __builtin_memcpy(fds.data(), CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
  return received;
}

// The same with one descriptor.
inline long receive_with_descriptor(int socket, void* data, std::size_t size, int* fd) noexcept {
  return receive_with_descriptors(socket, data, size, std::span(fd, 1));
}

}  // namespace mirrorcl
