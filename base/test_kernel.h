// SPDX-License-Identifier: Apache-2.0
// What tests can expect of the kernel that they run on.
#pragma once

#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

#include "base/memory_file.h"
#include "base/unique_fd.h"

namespace mirrorcl {

inline bool linux_is_at_least(int major, int minor) {
  utsname system{};
  uname(&system);
  int its_major = 0;
  int its_minor = 0;
  if (std::sscanf(system.release, "%d.%d", &its_major, &its_minor) != 2) return false;
  return its_major > major || (its_major == major && its_minor >= minor);
}

// Whether the kernel gives a mapping of the file a huge page. It may have none at hand: tries for a second.
inline bool can_have_huge_page(int file) {
  constexpr std::uint64_t kSize = std::uint64_t{2} << 20;
  const Mapping space(mmap(nullptr, 2 * kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 2 * kSize);
  const std::uint64_t start = (reinterpret_cast<std::uint64_t>(space.address()) + kSize - 1) & ~(kSize - 1);
  auto* at = reinterpret_cast<char*>(start);
  if (mmap(at, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) != at) return false;
  const auto is_huge = [] {
    std::ifstream maps("/proc/self/smaps");
    for (std::string line; std::getline(maps, line);) {
      if (line.starts_with("ShmemPmdMapped:") && line.find(" 2048 kB") != std::string::npos) return true;
    }
    return false;
  };
  for (int i = 0; i < 100; ++i) {
    if (madvise(at, kSize, MADV_HUGEPAGE) != 0) return false;
    *at = 1;
    const bool huge = is_huge();
    (void)punch_memory_file(file, 0, kSize);
    if (huge) return true;
    usleep(10'000);
  }
  return false;
}

}  // namespace mirrorcl
