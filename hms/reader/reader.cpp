// SPDX-License-Identifier: Apache-2.0
#include "hms/reader/reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>

#include "base/paths.h"
#include "base/spawn.h"
#include "base/unique_fd.h"
#include "hms/json_file.h"

namespace mirrorcl::hms {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kTimeout = std::chrono::seconds(60);

// Reads until the other end is closed. False if that does not happen before `deadline`.
Result<bool> read_all(int fd, Clock::time_point deadline, std::string& text) {
  std::array<char, 65536> buffer;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd watched{fd, POLLIN, 0};
    const int ready = poll(&watched, 1, left > 0 ? static_cast<int>(left) : 0);
    if (ready == 0) return false;
    if (ready < 0 && errno != EINTR) return fail_errno("poll", errno);
    if (ready < 0) continue;
    const ssize_t size = ::read(fd, buffer.data(), buffer.size());
    if (size < 0 && errno != EINTR) return fail_errno("read from mirrorcl-hms-reader", errno);
    if (size == 0) return true;
    if (size > 0) text.append(buffer.data(), static_cast<std::size_t>(size));
  }
}

}  // namespace

Result<Topology> read_in_other_process(const std::string& source, bool devices) {
  const std::string program = private_file("mirrorcl-hms-reader");
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno("pipe", errno);
  UniqueFd from(ends[0]), to(ends[1]);
  // Its working directory is this process's, so relative paths hold.
  const std::array<int, 3> fds = {-1, to.get(), -1};
  auto process = spawn_detached(program, {"mirrorcl-hms-reader", source, devices ? "devices" : "no-devices"}, fds);
  if (!process) return tl::unexpected(process.error());
  to.reset();

  std::string text;
  const auto finished = read_all(from.get(), Clock::now() + kTimeout, text);
  if (!finished || !*finished) syscall(SYS_pidfd_send_signal, process->pidfd.get(), SIGKILL, nullptr, 0);
  if (!finished) return tl::unexpected(finished.error());
  if (!*finished) return fail(ErrorCode::kSystem, fmt::format("reading {} takes more than a minute", source));
  if (text.empty()) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("hwloc cannot read {}: it is damaged (the reader was {})",
                                                         source, describe_exit(process->pidfd.get(), 1000)));
  }
  const std::string_view content = std::string_view(text).substr(1);
  if (text.front() == kReadTopology) return from_json(content);
  return fail(ErrorCode::kInvalidArgument, std::string(content));
}

}  // namespace mirrorcl::hms
