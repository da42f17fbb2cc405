// SPDX-License-Identifier: Apache-2.0
#include "hms/load.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/log.h"
#include "hms/discovery.h"
#include "hms/json_file.h"
#include "hms/measurements.h"
#include "hms/sysfs.h"
#include "hms/tree_file.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uintmax_t kMostBytes = 256u << 20;

Result<Topology> with_path(Result<Topology> result, const std::string& path) {
  if (!result && result.error().message.find(path) == std::string::npos) {
    result.error().message = fmt::format("{}: {}", path, result.error().message);
  }
  return result;
}

// Measurements need the topology to find their file, and change it: so this machine is looked at twice if there are
// any.
Result<Topology> load_this_machine() {
  auto topology = discover();
  if (!topology) return topology;
  const auto measurements = Measurements::load(Measurements::cache_file(*topology));
  if (!measurements) log_warning("{}", measurements.error().message);
  if (!measurements || measurements->empty()) return topology;
  return discover({.measurements = &*measurements});
}

std::string machine_of_environment() {
  for (const char* name : {"HWLOC_FSROOT", "HWLOC_XMLFILE"}) {
    const char* path = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
    if (path != nullptr && *path != '\0') return path;
  }
  return {};
}

Result<Topology> load_folder(const std::string& path) {
  if (is_topology_tree(path)) return read_tree(path);
  if (Sysfs::is_captured_tree(path)) return discover({.source = path});
  return fail(
      ErrorCode::kInvalidArgument,
      fmt::format("{} is a folder, but neither a captured machine (it lacks sys/devices/system) nor a tree that "
                  "'hms show --tree' wrote (it lacks 'next_uid')",
                  path));
}

}  // namespace

Result<Topology> load(const std::string& path) {
  if (path.empty()) {
    // What hwloc would take instead of this machine is another machine's file, so it is read like one.
    const std::string instead = machine_of_environment();
    return instead.empty() ? load_this_machine() : load(instead);
  }
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return with_path(load_folder(path), path);
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail_errno(fmt::format("cannot read {}", path), errno);
  const auto size = std::filesystem::file_size(path, error);
  if (!error && size > kMostBytes) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} is too large for a topology", path));
  }
  std::stringstream stream;
  stream << file.rdbuf();
  const std::string text = stream.str();
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return fail(ErrorCode::kInvalidArgument, fmt::format("{} is empty", path));
  if (text[first] == '<') return with_path(discover({.source = path}), path);
  if (text.starts_with("BZh") || text.starts_with("\x1f\x8b")) {
    return fail(
        ErrorCode::kInvalidArgument,
        fmt::format("{} is compressed: unpack it ('tar xf {}') and name the folder that holds sys/", path, path));
  }
  return with_path(from_json(text), path);
}

}  // namespace mirrorcl::hms
