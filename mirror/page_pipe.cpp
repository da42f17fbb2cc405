// SPDX-License-Identifier: Apache-2.0
#include "mirror/page_pipe.h"

#include <errno.h>
#include <fcntl.h>

#include "base/raw_syscall.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {

void PagePipe::open(Pipe& pipe) noexcept {
  int ends[2];
  if (raw_syscall(SYS_pipe2, ends, O_CLOEXEC | O_NONBLOCK) < 0) return;
  pipe.read_end.reset(ends[0]);
  pipe.write_end.reset(ends[1]);
  // One slot per page.
  for (std::uint64_t pages = kBlockPages / 2; pages > 16; pages /= 2) {
    if (raw_syscall(SYS_fcntl, ends[1], F_SETPIPE_SZ, pages * kPageSize) >= 0) break;
  }
  const long size = raw_syscall(SYS_fcntl, ends[1], F_GETPIPE_SZ);
  pipe.size = size < 0 ? 0 : std::min(page_down(static_cast<std::uint64_t>(size)), kBlockSize / 2);
}

unsigned PagePipe::capacity() noexcept {
  std::uint64_t size = 0;
  for (Pipe& pipe : pipes_) {
    if (!opened_) open(pipe);
    size += pipe.size;
  }
  opened_ = true;
  return static_cast<unsigned>(size / kPageSize);
}

int PagePipe::put(Range range, HostAgent& agent, HostEvents& events) noexcept {
  for (const Pipe& pipe : pipes_) {
    const Range part{range.start, std::min(range.size, pipe.size)};
    if (part.size == 0) continue;
    const long put = agent.splice(part, pipe.write_end.get(), events);
    if (put != static_cast<long>(part.size)) {
      drop();
      return put < 0 ? static_cast<int>(put) : -ENOBUFS;
    }
    range = {part.end(), range.size - part.size};
  }
  if (range.size == 0) return 0;
  drop();
  return -ENOBUFS;
}

int PagePipe::take(void* destination, std::uint64_t size) noexcept {
  auto* to = static_cast<char*>(destination);
  for (const Pipe& pipe : pipes_) {
    std::uint64_t left = std::min(size, pipe.size);
    size -= left;
    while (left != 0) {
      const long taken = raw_syscall(SYS_read, pipe.read_end.get(), to, left);
      if (taken == -EINTR) continue;
      if (taken <= 0) return taken == 0 ? -EIO : static_cast<int>(taken);
      to += taken;
      left -= static_cast<std::uint64_t>(taken);
    }
  }
  return 0;
}

void PagePipe::drop() noexcept {
  char sink[kPageSize];
  for (const Pipe& pipe : pipes_) {
    while (pipe.size != 0 && raw_syscall(SYS_read, pipe.read_end.get(), sink, sizeof sink) > 0) {
    }
  }
}

}  // namespace mirrorcl::mirror
