// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/device_process.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/pass_descriptors.h"
#include "base/raw_syscall.h"
#include "base/spawn.h"
#include "device/cpu/startup.h"
#include "device/packet.h"

namespace mirrorcl::device {
namespace {

constexpr int kStartTimeoutMs = 10'000;
constexpr int kEndTimeoutMs = 2'000;
constexpr int kWaitPidfd = 3;  // P_PIDFD

// Waits until `fd` is readable; false after the timeout.
bool wait_readable(int fd, int timeout_ms) noexcept {
  pollfd watched{fd, POLLIN, 0};
  int ready;
  do {
    ready = poll(&watched, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

tl::unexpected<Error> explain_failure(const Hello& hello) {
  char text[sizeof hello.failed_step];
  memcpy(text, hello.failed_step, sizeof text);
  text[sizeof text - 1] = 0;
  const std::string step = text;
  if (step.starts_with("userfaultfd") || step.starts_with("UFFDIO")) {
    const bool old = hello.error_number == EOPNOTSUPP || hello.error_number == EINVAL;
    return fail(
        ErrorCode::kNotSupported,
        fmt::format(
            "the device process cannot have a userfaultfd ({}: {}); {}", step, strerrordesc_np(hello.error_number),
            old ? "Linux 5.19 or later is needed, built with CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP"
                : "allow the system call userfaultfd, or access to /dev/userfaultfd, in this container or sandbox"));
  }
  std::string hint;
  if (hello.error_number == ENOMEM) hint = " (is the address space limited, ulimit -v, or vm.overcommit_memory=2?)";
  if (hello.error_number == EAGAIN) hint = " (is the number of threads limited, ulimit -u, or by a control group?)";
  auto error = fail_errno(fmt::format("the device process failed at {}{}", step, hint), hello.error_number);
  if (!hint.empty()) error.value().code = ErrorCode::kNotSupported;
  return error;
}

// A pair of sockets, the second one for D.
Result<void> make_sockets(UniqueFd* ours, UniqueFd* theirs) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return fail_errno("socketpair", errno);
  ours->reset(pair[0]);
  theirs->reset(pair[1]);
  return {};
}

// Starts the firmware, which comes from the file `path`, with `spawn` and waits for its message.
template <typename Spawn>
Result<DeviceProcess> start(const std::string& path, std::uint32_t device, int window_fd, int memory_fd, Spawn spawn) {
  DeviceProcess process;
  UniqueFd theirs;
  UniqueFd their_sharing;
  if (auto made = make_sockets(&process.socket, &theirs); !made) return tl::unexpected<Error>(made.error());
  if (auto made = make_sockets(&process.sharing_socket, &their_sharing); !made) {
    return tl::unexpected<Error>(made.error());
  }
  const Start message{kProtocolVersion, device};
  if (send(process.socket.get(), &message, sizeof message, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof message)) {
    return fail_errno("send to the device process", errno);
  }
  UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!self) return fail_errno("pidfd_open", errno);

  std::array<int, kStartupFdCount> fds{};
  fds[kSocketFd] = theirs.get();
  fds[kWindowFd] = window_fd;
  fds[kDeviceMemoryFd] = memory_fd;
  fds[kApplicationFd] = self.get();
  fds[kSharingFd] = their_sharing.get();
  Result<SpawnedProcess> spawned = spawn(std::span<const int>(fds));
  if (!spawned) return tl::unexpected<Error>(spawned.error());
  process.pid = spawned->pid;
  process.pidfd = std::move(spawned->pidfd);
  theirs.reset();
  their_sharing.reset();

  Hello hello{};
  if (!wait_readable(process.socket.get(), kStartTimeoutMs)) {
    end_device_process(process);
    return fail(ErrorCode::kSystem,
                fmt::format("the device process did not answer within {} s", kStartTimeoutMs / 1000));
  }
  std::array<int, 2> descriptors{};
  const long size = receive_with_descriptors(process.socket.get(), &hello, sizeof hello, descriptors);
  process.uffd.reset(descriptors[kUserfaultfd]);
  process.pagemap.reset(descriptors[kPagemap]);
  if (size <= 0) {
    std::string end = describe_exit(process.pidfd.get(), kEndTimeoutMs);
    end_device_process(process);
    return fail(ErrorCode::kSystem, fmt::format("the device process {} before it was ready (firmware {})", end, path));
  }
  if (static_cast<std::size_t>(size) < sizeof hello || hello.magic != kHelloMagic ||
      hello.version != kProtocolVersion) {
    end_device_process(process);
    return fail(ErrorCode::kNotSupported,
                fmt::format("the device firmware {} speaks protocol version {}, this driver {}", path, hello.version,
                            kProtocolVersion));
  }
  if (hello.error_number != 0) {
    end_device_process(process);
    return explain_failure(hello);
  }
  process.pagemap_error = process.pagemap || hello.pagemap_error != 0 ? hello.pagemap_error : EMFILE;
  process.features = hello.features;
  process.symbol_count = hello.symbol_count;
  return process;
}

}  // namespace

bool has_ended(const UniqueFd& pidfd) noexcept {
  pollfd watched{pidfd.get(), POLLIN, 0};
  return raw_syscall(SYS_poll, &watched, 1, 0) > 0;
}

void reap_if_ours(const DeviceProcess& process) noexcept {
  siginfo_t info;
  (void)raw_syscall(SYS_waitid, kWaitPidfd, process.pidfd.get(), &info, WEXITED | WNOHANG | __WALL, nullptr);
}

void end_device_process(DeviceProcess& process) noexcept {
  process.socket.reset();
  process.sharing_socket.reset();
  if (!process.pidfd) return;
  if (!wait_readable(process.pidfd.get(), kEndTimeoutMs)) {
    (void)raw_syscall(SYS_pidfd_send_signal, process.pidfd.get(), SIGKILL, nullptr, 0);
    wait_readable(process.pidfd.get(), kEndTimeoutMs);
  }
  reap_if_ours(process);
}

Result<DeviceProcess> start_device_process(const std::string& path, std::uint32_t device, int window_fd,
                                           int memory_fd) {
  if (access(path.c_str(), X_OK) != 0) {
    return fail(ErrorCode::kNotSupported,
                fmt::format("the device firmware {} is missing or not executable ({}); MIRRORCL_LIBRARY_DIR "
                            "names the folder it lies in",
                            path, strerrordesc_np(errno)));
  }
  auto process = start(path, device, window_fd, memory_fd,
                       [&](std::span<const int> fds) { return spawn_detached(path, {"mirrorcl-firmware"}, fds); });
  if (process && !process->uffd) {
    end_device_process(*process);
    return fail(ErrorCode::kSystem,
                "the device process sent no userfaultfd (is the limit of open files reached, ulimit -n?)");
  }
  return process;
}

Result<DeviceProcess> start_sharing_device_process(const std::string& path, SharingEntry entry, void* stack_top) {
  return start(path, 0, -1, -1, [&](std::span<const int> fds) {
    return spawn_sharing_memory(entry, kApplicationMemory, stack_top, fds);
  });
}

}  // namespace mirrorcl::device
