// SPDX-License-Identifier: Apache-2.0
#include "mirror/robust_lists.h"

#include "base/raw_syscall.h"

namespace mirrorcl::mirror {

// The kernel forgets the list when it has walked it for an ending thread.
std::uint64_t RobustLists::head_of(std::uint32_t id) noexcept {
  std::uint64_t head = 0;
  std::uint64_t size = 0;
  return raw_syscall(SYS_get_robust_list, static_cast<long>(id), &head, &size) == 0 ? head : 0;
}

}  // namespace mirrorcl::mirror
