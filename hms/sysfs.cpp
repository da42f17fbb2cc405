// SPDX-License-Identifier: Apache-2.0
#include "hms/sysfs.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

namespace mirrorcl::hms {
namespace {

constexpr const char* kNodes = "/sys/devices/system/node";
constexpr std::size_t kMostBytes = 1 << 20;  // no file that is read here is longer

std::string node_path(std::uint32_t node, const char* file) {
  return fmt::format("{}/node{}/{}", kNodes, node, file);
}

std::optional<std::uint64_t> parse_number(const std::string& text) {
  const std::size_t start = text.find_first_not_of(" \t");
  if (start == std::string::npos) return std::nullopt;
  std::uint64_t number = 0;
  const char* first = text.data() + start;
  const auto [end, error] = std::from_chars(first, text.data() + text.size(), number);
  return error == std::errc{} && end != first ? std::optional(number) : std::nullopt;
}

// "00000001,00000003": hexadecimal words of 32 bits, the highest first.
IdSet parse_mask(const std::string& text) {
  IdSet set;
  std::uint32_t bit = 0;
  for (auto digit = text.rbegin(); digit != text.rend() && bit + 3 <= IdSet::kMax; ++digit) {
    if (std::isxdigit(static_cast<unsigned char>(*digit)) == 0) continue;
    const int value = *digit <= '9' ? *digit - '0' : (*digit | 0x20) - 'a' + 10;
    for (std::uint32_t i = 0; i < 4; ++i) {
      if ((value >> i & 1) != 0) set.add(bit + i);
    }
    bit += 4;
  }
  return set;
}

// "node12" -> 12
std::optional<std::uint32_t> numbered(const std::string& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  const auto ids = IdSet::parse(std::string_view(name).substr(prefix.size()));
  return ids && ids->count() == 1 ? std::optional(ids->first()) : std::nullopt;
}

}  // namespace

bool Sysfs::is_captured_tree(const std::string& root) {
  std::error_code error;
  return std::filesystem::is_directory(root + "/sys/devices/system", error);
}

std::optional<std::string> Sysfs::read(const std::string& path) const {
  std::ifstream file(root_ + path);
  if (!file) return std::nullopt;
  std::string text(kMostBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return text;
}

std::optional<std::uint64_t> Sysfs::read_number(const std::string& path) const {
  const auto text = read(path);
  return text ? parse_number(*text) : std::nullopt;
}

IdSet Sysfs::read_ids(const std::string& path) const {
  const auto text = read(path);
  return text ? IdSet::parse(*text).value_or(IdSet{}) : IdSet{};
}

std::vector<std::string> Sysfs::list(const std::string& folder) const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(root_ + folder, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool Sysfs::tells_system() const {
  return root_.empty() || read("/proc/hwloc-nofile-info").has_value();
}

IdSet Sysfs::possible_nodes() const {
  return read_ids(fmt::format("{}/possible", kNodes));
}

IdSet Sysfs::nodes() const {
  IdSet ids;
  for (const auto& name : list(kNodes)) {
    if (const auto node = numbered(name, "node")) ids.add(*node);
  }
  return ids;
}

IdSet Sysfs::generic_initiators() const {
  return read_ids(fmt::format("{}/has_generic_initiator", kNodes));
}

IdSet Sysfs::cpus_of_node(std::uint32_t node) const {
  if (const auto list = read(node_path(node, "cpulist"))) return IdSet::parse(*list).value_or(IdSet{});
  const auto map = read(node_path(node, "cpumap"));  // what some captured trees have instead
  return map ? parse_mask(*map) : IdSet{};
}

bool Sysfs::local_cpus_are_offline(std::uint32_t node) const {
  if (!cpus_of_node(node).empty()) return false;
  // CPUs that are offline are still filed under their node.
  for (const auto& name : list(node_path(node, ""))) {
    if (numbered(name, "cpu")) return true;
  }
  IdSet nearest = initiators(node, "access1");
  if (nearest.empty()) nearest = initiators(node, "access0");
  if (nearest.empty() || nearest.intersects(generic_initiators())) return false;
  const auto nodes = nearest.members();
  return std::ranges::all_of(nodes, [this](std::uint32_t each) { return cpus_of_node(each).empty(); });
}

IdSet Sysfs::initiators(std::uint32_t node, const char* access_class) const {
  IdSet result;
  for (const auto& name : list(node_path(node, access_class) + "/initiators")) {
    if (const auto initiator = numbered(name, "node")) result.add(*initiator);
  }
  return result;
}

std::map<std::uint32_t, std::uint32_t> Sysfs::distances_from(std::uint32_t node, const IdSet& nodes) const {
  std::map<std::uint32_t, std::uint32_t> distances;
  const auto text = read(node_path(node, "distance"));
  if (!text) return distances;
  // One number for each node that is online, in the order of their ids.
  const auto ids = nodes.members();
  std::istringstream row(*text);
  std::uint32_t distance = 0;
  for (std::size_t i = 0; i < ids.size() && row >> distance; ++i) distances[ids[i]] = distance;
  return distances;
}

std::optional<Sysfs::AccessClass> Sysfs::access_class_0(std::uint32_t node) const {
  const std::string folder = node_path(node, "access0/initiators");
  AccessClass result;
  result.initiators = initiators(node, "access0");
  const auto set = [&](Property property, const char* file) {
    const auto number = read_number(folder + "/" + file);
    if (number && *number != 0) result.properties.set(property, {*number, Source::kFirmware});
  };
  set(Property::kReadBandwidth, "read_bandwidth");
  set(Property::kWriteBandwidth, "write_bandwidth");
  set(Property::kReadLatency, "read_latency");
  set(Property::kWriteLatency, "write_latency");
  if (result.initiators.empty() || result.properties.empty()) return std::nullopt;
  return result;
}

std::optional<std::uint64_t> Sysfs::free_memory(std::uint32_t node) const {
  const auto text = read(node_path(node, "meminfo"));
  if (!text) return std::nullopt;
  const auto kilobytes = [&](const char* key) -> std::optional<std::uint64_t> {
    const std::size_t at = text->find(key);
    return at == std::string::npos ? std::nullopt : parse_number(text->substr(at + std::string_view(key).size(), 40));
  };
  const auto free = kilobytes("MemFree:");
  if (!free) return std::nullopt;
  return (*free + kilobytes("Inactive(file):").value_or(0)) * 1024;
}

std::optional<std::int32_t> Sysfs::memory_tier(std::uint32_t node) const {
  constexpr const char* kTiers = "/sys/devices/virtual/memory_tiering";
  std::set<std::uint32_t> tiers;  // the kernel's numbers leave gaps
  std::optional<std::uint32_t> mine;
  for (const auto& name : list(kTiers)) {
    const auto tier = numbered(name, "memory_tier");
    if (!tier) continue;
    tiers.insert(*tier);
    if (read_ids(fmt::format("{}/{}/nodelist", kTiers, name)).contains(node)) mine = tier;
  }
  if (!mine) return std::nullopt;
  return static_cast<std::int32_t>(std::distance(tiers.begin(), tiers.find(*mine)));
}

std::vector<MemorySideCache> Sysfs::memory_side_caches(std::uint32_t node) const {
  std::vector<MemorySideCache> caches;
  // index1 is the cache nearest to the memory.
  for (std::uint32_t level = 1;; ++level) {
    const std::string folder = node_path(node, fmt::format("memory_side_cache/index{}", level).c_str());
    const auto size = read_number(folder + "/size");
    if (!size) return caches;
    const auto policy = [&](const char* file) {
      const auto number = read_number(folder + file);
      return number && *number <= 2 ? static_cast<std::int32_t>(*number) : -1;
    };
    caches.push_back({.size = *size,
                      .line_size = static_cast<std::uint32_t>(read_number(folder + "/line_size").value_or(0)),
                      .indexing = policy("/indexing"),
                      .write_policy = policy("/write_policy")});
  }
}

std::optional<std::uint64_t> Sysfs::pci_link_width(const std::string& bus_address) const {
  const auto width = read_number("/sys/bus/pci/devices/" + bus_address + "/current_link_width");
  return width && *width != 0 ? width : std::nullopt;  // 0: not a PCI Express device
}

}  // namespace mirrorcl::hms
