// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/map_channel.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>

#include "base/log.h"
#include "base/pass_descriptors.h"
#include "base/raw_syscall.h"

namespace mirrorcl::device {

void MapChannel::connect(int socket, int pidfd) noexcept {
  pidfd_.store(pidfd);
  socket_.store(socket);
}

int MapChannel::ask(MapRequest request, int fd) noexcept {
  const int socket = socket_.load();
  if (socket < 0) return 0;
  request.sequence = ++requests_;
  long result = send_with_descriptor(socket, &request, sizeof request, fd);
  if (result == -EPIPE || result == -ECONNRESET) return 0;
  if (result < 0) return static_cast<int>(result);
  for (;;) {
    pollfd watched{socket, POLLIN, 0};
    const timespec patience{10, 0};
    result = raw_syscall(SYS_ppoll, &watched, 1, &patience, nullptr, 0);
    if (result == -EINTR) continue;
    if (result == 0) {
      log_error("the device process does not answer and is ended");
      (void)raw_syscall(SYS_pidfd_send_signal, pidfd_.load(), SIGKILL, nullptr, 0);
      return 0;
    }
    MapAnswer answer{};
    result = raw_syscall(SYS_recvfrom, socket, &answer, sizeof answer, MSG_DONTWAIT, nullptr, nullptr);
    if (result == -EINTR || result == -EAGAIN) continue;
    if (result != static_cast<long>(sizeof answer)) return 0;
    if (answer.sequence == request.sequence) return answer.error;
  }
}

}  // namespace mirrorcl::device
