// SPDX-License-Identifier: Apache-2.0
// The device firmware in the application's own memory: its segments at the addresses that it is linked at, which are in
// the window, for a process that shares this memory and calls it.
#pragma once

#include <string>

#include "base/result.h"
#include "base/spawn.h"

namespace mirrorcl::device {

struct FirmwareImage {
  SharingEntry entry;
  void* stack_top;  // of a small stack to enter it on
};

// Reads the executable at `path` and places a fresh copy of it in the firmware region; nobody may run the former one.
// The copy is private memory, so that a new file in its place (an update) changes nothing, and is not inherited by
// forked children. Instructions cannot be written, data cannot be executed. kNotSupported if the file is not the
// firmware or the system forbids it.
Result<FirmwareImage> place_firmware(const std::string& path);

// Makes the region what it was before: empty private memory. Async-signal-safe.
void remove_firmware() noexcept;

}  // namespace mirrorcl::device
