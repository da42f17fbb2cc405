// SPDX-License-Identifier: Apache-2.0
// For tests that kill device processes: which ones are this process's.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "device/window.h"

namespace mirrorcl::icd::testing {

// Device and inode of the file at the start of the shared part of process `id`'s window, empty if there is none.
inline std::string window_file_of(const std::string& id) {
  std::ostringstream start;
  start << std::hex << window::kSharedControl.start << '-';
  std::ifstream maps("/proc/" + id + "/maps");
  std::string range, mode, offset, disk, inode, rest;
  while (maps >> range >> mode >> offset >> disk >> inode && std::getline(maps, rest)) {
    if (range.rfind(start.str(), 0) == 0) return disk + ":" + inode;
  }
  return {};
}

// The other processes with this process's window, one for each device.
inline std::vector<pid_t> device_processes() {
  const std::string ours = window_file_of("self");
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    const pid_t id = std::atoi(name.c_str());
    if (id > 0 && id != getpid() && !ours.empty() && window_file_of(name) == ours) found.push_back(id);
  }
  return found;
}

}  // namespace mirrorcl::icd::testing
