// SPDX-License-Identifier: Apache-2.0
// Starts the device process and takes its userfaultfd.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/spawn.h"
#include "base/unique_fd.h"

namespace mirrorcl::device {

struct DeviceProcess {
  pid_t pid = -1;
  UniqueFd pidfd;                  // readable once it has ended
  UniqueFd socket;                 // the service thread's; closing it ends the process
  UniqueFd sharing_socket;         // the application threads'; likewise
  UniqueFd uffd;                   // non-blocking; none if it shares the application's memory
  UniqueFd pagemap;                // its /proc/self/pagemap; none where it could not be had
  int pagemap_error = 0;           // then: why
  std::uint64_t features = 0;      // of uffd
  std::uint32_t symbol_count = 0;  // in the window, at kSymbolsOffset
};

// Starts the firmware at `path` over the window and the device memory file, as the `device`th of this process. Its
// control block must be filled in. Returns when its units run. kNotSupported, with what to do about it, if the firmware
// is missing or of another version, or if the kernel or the permissions do not allow a device; kSystem otherwise.
Result<DeviceProcess> start_device_process(const std::string& path, std::uint32_t device, int window_fd, int memory_fd);

// The same for the firmware of `path` whose image lies in this process's memory already: calls `entry` in a process
// that shares it, with the stack below `stack_top` to begin on, as this process's only device. There is no userfaultfd.
Result<DeviceProcess> start_sharing_device_process(const std::string& path, SharingEntry entry, void* stack_top);

// Ends it, and returns when it has ended; kills it if it does not go by itself.
void end_device_process(DeviceProcess& process) noexcept;

// If the process is a child of ours after all (we are init or a subreaper, so that orphans come to us): reaps it.
void reap_if_ours(const DeviceProcess& process) noexcept;

bool has_ended(const UniqueFd& pidfd) noexcept;

}  // namespace mirrorcl::device
