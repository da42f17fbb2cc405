// SPDX-License-Identifier: Apache-2.0
// fork() of the application: the child must neither keep D alive nor disturb it.
#pragma once

namespace mirrorcl::device {

class CpuDeviceImpl;

// Once per process: from now on the child of a fork() has a window of its own, which is empty.
void register_fork_handlers();

// From now on fork() calls before_fork(), then after_fork_in_parent() and after_fork_in_child() of `device`.
void add_fork_target(CpuDeviceImpl& device);
// No longer. Ignored if it never did.
void remove_fork_target(CpuDeviceImpl& device) noexcept;

}  // namespace mirrorcl::device
