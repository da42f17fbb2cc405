// SPDX-License-Identifier: Apache-2.0
// From which NUMA node the kernel takes device memory.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace mirrorcl::device {

// Pages that are allocated for the first `size` bytes of the memory file `fd` from now on come from `node` as long as
// it has room, whoever has them allocated: a fault in A or D, UFFDIO_COPY, pwrite. Pages that are there already stay.
// kSystem: the kernel has no such node, or refuses the call (a container's seccomp filter may).
Result<void> prefer_node(int fd, std::uint64_t size, int node);

}  // namespace mirrorcl::device
