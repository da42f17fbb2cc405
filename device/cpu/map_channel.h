// SPDX-License-Identifier: Apache-2.0
// A's end of a socket to D's control thread, which changes D's address space on request. Raw system calls only, no
// allocation: usable in the mirror's pinned service thread. One thread at a time; D serves several channels.
#pragma once

#include <atomic>
#include <cstdint>

#include "device/cpu/startup.h"

namespace mirrorcl::device {

class MapChannel {
 public:
  // Both stay the caller's; -1 for none. May change while a request is under way.
  void connect(int socket, int pidfd) noexcept;

  // Has D carry out `request`; with `fd` >= 0 that goes along. 0 or -errno; 0 also if D is dead, for its address space
  // has gone with it. A D that does not answer for ten seconds is killed.
  int ask(MapRequest request, int fd) noexcept;

 private:
  std::atomic<int> socket_{-1};
  std::atomic<int> pidfd_{-1};
  std::uint32_t requests_ = 0;
};

}  // namespace mirrorcl::device
