// SPDX-License-Identifier: Apache-2.0
#include "hms/hwloc_source.h"

#include <fmt/format.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "hms/hwloc_xml.h"

namespace mirrorcl::hms {
namespace {

// Components that would load drivers, OpenCL itself among them. Devices of MirrorCL add themselves (machine.h).
constexpr const char* kUnwantedComponents[] = {"opencl", "cuda", "nvml", "rsmi", "levelzero", "gl"};

bool configure(hwloc_topology_t topology) {
  for (const char* name : kUnwantedComponents) {
    hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, name);
  }
  return hwloc_topology_set_flags(topology, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED) == 0 &&
         hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_STRUCTURE) == 0 &&
         hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) == 0 &&
         hwloc_topology_set_type_filter(topology, HWLOC_OBJ_PACKAGE, HWLOC_TYPE_FILTER_KEEP_ALL) == 0 &&
         hwloc_topology_set_type_filter(topology, HWLOC_OBJ_MEMCACHE, HWLOC_TYPE_FILTER_KEEP_ALL) == 0;
}

tl::unexpected<Error> cannot_load(const std::string& what) {
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("hwloc cannot load {}: {}", what,
                          errno != 0 ? std::generic_category().message(errno) : std::string("not understood")));
}

Result<std::string> read_xml(const std::string& path) {
  constexpr std::uintmax_t kMostBytes = 256u << 20;
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) return fail_errno(fmt::format("cannot read {}", path), error.value());
  if (size > kMostBytes) return fail(ErrorCode::kInvalidArgument, fmt::format("{} is too large for a topology", path));
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return fail_errno(fmt::format("cannot read {}", path), errno);
  return as_hwloc_2_xml(text.str());
}

bool load_xml(hwloc_topology_t topology, const std::string& xml) {
  if (xml.size() >= INT_MAX) return false;
  // hwloc counts the NUL at the end.
  return hwloc_topology_set_xmlbuffer(topology, xml.c_str(), static_cast<int>(xml.size()) + 1) == 0 &&
         hwloc_topology_load(topology) == 0;
}

}  // namespace

Result<HwlocSource> load_hwloc(const std::string& path) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return fail(ErrorCode::kOutOfHostMemory, "no memory for the topology");
  HwlocSource source{std::unique_ptr<hwloc_topology, HwlocDelete>(raw), std::nullopt};
  if (!configure(raw)) return fail(ErrorCode::kNotSupported, "this hwloc refuses the filters that hms/ needs");
  errno = 0;
  if (path.empty()) {
    if (hwloc_topology_load(raw) != 0) return cannot_load("this machine");
    const char* root = std::getenv("HWLOC_FSROOT");  // NOLINT(concurrency-mt-unsafe)
    if (hwloc_topology_is_thissystem(raw) != 0) {
      source.sysfs.emplace("");
    } else if (root != nullptr && Sysfs::is_captured_tree(root)) {
      source.sysfs.emplace(root);
    }
    return source;
  }
  if (Sysfs::is_captured_tree(path)) {
    setenv("HWLOC_FSROOT", path.c_str(), 1);  // NOLINT(concurrency-mt-unsafe): hwloc has no call for it
    // The cpuid instruction would describe this machine, not that one.
    hwloc_topology_set_components(raw, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
    if (hwloc_topology_load(raw) != 0) return cannot_load(path);
    source.sysfs.emplace(path);
    return source;
  }
  auto xml = read_xml(path);
  if (!xml) return tl::unexpected(xml.error());
  if (!load_xml(raw, *xml)) return cannot_load(path);
  return source;
}

IdSet to_id_set(hwloc_const_bitmap_t bitmap) {
  IdSet set;
  if (bitmap == nullptr || hwloc_bitmap_weight(bitmap) < 0) return set;  // none, or infinite: says nothing
  for (int id = hwloc_bitmap_first(bitmap); id >= 0; id = hwloc_bitmap_next(bitmap, id)) {
    if (static_cast<std::uint32_t>(id) <= IdSet::kMax) set.add(static_cast<std::uint32_t>(id));
  }
  return set;
}

}  // namespace mirrorcl::hms
