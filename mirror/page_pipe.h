// SPDX-License-Identifier: Apache-2.0
// Pipes that hold pages, not copies of them: what the application still writes to a page after it has been put in is
// what comes out. So the contents of a mapping can be kept, to the last write, beyond the moment in which another
// mapping takes its place.
//
// Locking: service thread only.
#pragma once

#include <array>
#include <cstdint>

#include "base/unique_fd.h"
#include "mirror/host_agent.h"

namespace mirrorcl::mirror {

class PagePipe {
 public:
  // Pages that fit, at most kBlockPages; 0 if no pipe can be had. Made when they are first needed.
  unsigned capacity() noexcept;
  // Puts the pages of `range` in, which must be present. 0, or -errno with nothing put in.
  int put(Range range, HostAgent& agent, HostEvents& events) noexcept;
  // Takes everything out again into `destination`. 0 or -errno.
  int take(void* destination, std::uint64_t size) noexcept;
  void drop() noexcept;

 private:
  struct Pipe {
    UniqueFd read_end;
    UniqueFd write_end;
    std::uint64_t size = 0;  // bytes
  };
  static void open(Pipe& pipe) noexcept;

  // What an unprivileged process may have (/proc/sys/fs/pipe-max-size) is 256 pages, as a rule: half a block.
  std::array<Pipe, 2> pipes_;
  bool opened_ = false;
};

}  // namespace mirrorcl::mirror
