// SPDX-License-Identifier: Apache-2.0
// The control thread once the units run: maps what A asks for into the device's address space, and waits for A's end.
#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <atomic>

#include "base/pass_descriptors.h"
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

// What one of A's channels has made inaccessible, for it to be something else in a moment.
struct ClosedRange {
  std::atomic<std::uint64_t> start;
  std::atomic<std::uint64_t> end;  // 0: none
};
constinit ClosedRange closed_ranges[2] = {};
// Bumped after a range is said to be closed and before it is, and after it is open again.
constinit std::atomic<std::uint32_t> changes{0};

void close_range(ClosedRange& closed, const device::MapRequest& request) noexcept {
  closed.start.store(request.start);
  closed.end.store(request.start + request.size);
  changes.fetch_add(1);
}

void open_range(ClosedRange& closed) noexcept {
  closed.end.store(0);
  changes.fetch_add(1);
}

bool is_closed(std::uint64_t address) noexcept {
  for (const ClosedRange& closed : closed_ranges) {
    if (address < closed.end.load() && address >= closed.start.load()) return true;
  }
  return false;
}

long change(const device::MapRequest& request, int fd) noexcept {
  if (!is_device_range(request.start, request.size)) return -EINVAL;
  if (request.kind == device::MapRequest::kProtect) {
    return raw_syscall(SYS_mprotect, request.start, request.size, request.protection);
  }
  if (fd < 0) return -EMFILE;  // it came, but this process may not have one more
  const long mapped = raw_syscall(SYS_mmap, request.start, request.size, request.protection,
                                  MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, request.offset);
  return mapped == static_cast<long>(request.start) ? 0 : mapped;
}

// A unit that runs into what is closed waits, so the order is: said to be closed, closed, open, said to be open.
long serve(ClosedRange& closed, const device::MapRequest& request, int fd) noexcept {
  const bool closes = request.protection == PROT_NONE;
  if (closes) close_range(closed, request);
  const long result = change(request, fd);
  if (!closes || result != 0) open_range(closed);
  return result;
}

// False at the end of A.
bool answer_request(int socket, ClosedRange& closed) noexcept {
  device::MapRequest request{};
  int fd = -1;
  const long size = receive_with_descriptor(socket, &request, sizeof request, &fd);
  if (size != static_cast<long>(sizeof request)) return false;
  device::MapAnswer answer{request.sequence, static_cast<std::int32_t>(serve(closed, request, fd))};
  if (fd >= 0) raw_syscall(SYS_close, fd);
  raw_syscall(SYS_sendto, socket, &answer, sizeof answer, MSG_NOSIGNAL, nullptr, 0);
  return true;
}

}  // namespace

std::uint32_t wait_for_changes(std::uint64_t address) noexcept {
  constexpr std::uint64_t kPatienceNs = 10'000'000'000;
  for (const std::uint64_t start = now_ns();;) {
    const std::uint32_t seen = changes.load();
    if (!is_closed(address) || now_ns() - start > kPatienceNs) return seen;
    raw_syscall(SYS_sched_yield);
  }
}

[[noreturn]] void run_control() noexcept {
  pollfd watched[3] = {{device::kApplicationFd, POLLIN, 0},
                       {device::kSocketFd, POLLIN, 0},
                       {shares_memory ? -1 : device::kSharingFd, POLLIN, 0}};
  for (;;) {
    const long ready = raw_syscall(SYS_poll, watched, 3, -1);
    if (ready <= 0) continue;
    // In the application's own memory nothing is mapped on request; whatever becomes readable is an end.
    if (watched[0].revents != 0 || shares_memory) raw_syscall(SYS_exit_group, 0);
    for (int i = 0; i < 2; ++i) {
      const pollfd& socket = watched[1 + i];
      if (socket.revents != 0 && !answer_request(socket.fd, closed_ranges[i])) raw_syscall(SYS_exit_group, 0);
    }
  }
}

}  // namespace mirrorcl::firmware
