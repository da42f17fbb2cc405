// SPDX-License-Identifier: Apache-2.0
#include "base/memory_limit.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <fstream>
#include <string_view>

namespace mirrorcl {
namespace {

// "max", or no such file: no limit.
std::uint64_t read_limit(const std::string& path) {
  std::uint64_t limit = 0;
  return std::ifstream(path) >> limit ? limit : UINT64_MAX;
}

// Of the group at `path` below `root`, and all that it lies in. In a container the path may be the machine's, and only
// the last one there.
std::uint64_t smallest_limit(const std::string& root, std::string path, const char* file) {
  std::uint64_t limit = UINT64_MAX;
  for (;;) {
    limit = std::min(limit, read_limit(root + path + '/' + file));
    if (path.empty()) return limit;
    path.erase(path.find_last_of('/'));
  }
}

bool lists(std::string_view controllers, std::string_view name) {
  while (!controllers.empty()) {
    const std::size_t comma = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, comma) == name) return true;
    controllers.remove_prefix(std::min(comma + 1, controllers.size()));
  }
  return false;
}

}  // namespace

std::uint64_t control_group_limit(const std::string& membership, const std::string& hierarchy) {
  std::uint64_t limit = UINT64_MAX;
  std::ifstream groups(membership);
  for (std::string line; std::getline(groups, line);) {  // "4:memory:/group" (version 1), "0::/group" (version 2)
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos || second + 1 == line.size() || line[second + 1] != '/') continue;
    const std::string_view controllers = std::string_view(line).substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers.empty()) {
      limit = std::min(limit, smallest_limit(hierarchy, path, "memory.max"));
    } else if (lists(controllers, "memory")) {
      limit = std::min(limit, smallest_limit(hierarchy + "/memory", path, "memory.limit_in_bytes"));
    }
  }
  return limit;
}

std::uint64_t usable_memory() {
  struct sysinfo machine {};
  const std::uint64_t all = sysinfo(&machine) == 0 ? std::uint64_t{machine.totalram} * machine.mem_unit : UINT64_MAX;
  return std::min(all, control_group_limit("/proc/self/cgroup", "/sys/fs/cgroup"));
}

}  // namespace mirrorcl
