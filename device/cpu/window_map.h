// SPDX-License-Identifier: Apache-2.0
// The window in the application: the reservation, and the memory file behind the regions that A and D share.
#pragma once

#include "base/result.h"
#include "device/window.h"

namespace mirrorcl::device {

// Reserves the window and maps its shared regions; once per process, then idempotent. kNotSupported if the range is
// taken or a file-size limit forbids the sparse files. (Declared in cpu_device.h too.)
Result<void> reserve_window();

// The file of the regions control, heap and code, in this order. Valid after reserve_window().
int window_fd() noexcept;

// Replaces `region`, one of those that are not shared, by fresh private memory (a PROT_... mask), or takes access to it
// away (PROT_NONE). Returns 0, or an errno value. Async-signal-safe.
int renew_region(const window::Region& region, int protection) noexcept;

// Gives the pages of [start, start + size), in a shared region, back to the system; they read as zeros then.
void discard_window_memory(void* start, std::size_t size) noexcept;

// In the child of a fork(): replaces the shared regions, which are not inherited, by empty private memory, so that the
// child reads zeros (every signal: complete) and can disturb nobody. reserve_window() gives it new ones.
// Async-signal-safe.
void detach_window_after_fork() noexcept;

}  // namespace mirrorcl::device
