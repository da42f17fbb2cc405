// SPDX-License-Identifier: Apache-2.0
// How much memory this process may use.
#pragma once

#include <cstdint>
#include <string>

namespace mirrorcl {

// Bytes: the machine's memory, or what the control groups of this process allow (memory.max of version 2,
// memory.limit_in_bytes of version 1, of the group and those around it) if that is less.
std::uint64_t usable_memory();

// The smallest limit that the groups named in the file `membership` (as /proc/self/cgroup) have below `hierarchy` (as
// /sys/fs/cgroup); UINT64_MAX: none.
std::uint64_t control_group_limit(const std::string& membership, const std::string& hierarchy);

}  // namespace mirrorcl
