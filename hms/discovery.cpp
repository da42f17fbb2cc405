// SPDX-License-Identifier: Apache-2.0
#include "hms/discovery.h"

#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/options.h"
#include "hms/cells.h"
#include "hms/discovery_pci.h"
#include "hms/hwloc_source.h"
#include "hms/reader/reader.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uint32_t kLocalDistance = 10;   // of a node to itself, by definition of the SLIT
constexpr std::uint32_t kRemoteDistance = 20;  // what the kernel takes where there is no SLIT

struct Row {  // an initiator
  Uid uid;
  IdSet cpus;
  std::int32_t node;  // whose SLIT row holds for it; -1: none
  std::map<std::uint32_t, std::uint32_t> distances;
};

struct FirmwareFigures {
  IdSet cpus;  // of the initiators that they hold for
  Properties properties;
};

struct Column {  // a target
  Uid uid;
  IdSet cpus;
  std::int32_t node;
  std::vector<FirmwareFigures> by_cpus;
  std::optional<Sysfs::AccessClass> by_node;  // for generic initiators
  Properties own;                             // of the link that the memory itself is behind, whoever accesses it
  Properties nearest;                         // figures that distances scale
};

std::string info_of(hwloc_obj_t object, const char* key) {
  const char* value = hwloc_obj_get_info_by_name(object, key);
  return value != nullptr ? value : "";
}

// hwloc's bandwidth and latency are the mean of reads and writes; what is worth knowing is both, or the one number if
// they agree.
void simplify(Properties& properties, Property both, Property read, Property write) {
  const auto r = properties.get(read), w = properties.get(write);
  if (!r || !w) return;
  properties.clear(both);
  if (*r != *w) return;
  properties.set(both, *r);
  properties.clear(read);
  properties.clear(write);
}

Properties simplified(Properties properties) {
  simplify(properties, Property::kBandwidth, Property::kReadBandwidth, Property::kWriteBandwidth);
  simplify(properties, Property::kLatency, Property::kReadLatency, Property::kWriteLatency);
  return properties;
}

MemoryKind kind_of_node(hwloc_obj_t node) {
  const std::string subtype = node->subtype != nullptr ? node->subtype : "";
  if (subtype == "HBM" || subtype == "MCDRAM") return MemoryKind::kHbm;
  if (subtype == "NVM") return MemoryKind::kNvm;
  if (subtype == "SPM") return MemoryKind::kSpm;
  if (subtype.starts_with("CXL")) return MemoryKind::kCxl;
  if (subtype == "GPUMemory") return MemoryKind::kDevice;
  // hwloc 2.9 names kinds only where it is sure; the device behind a DAX node tells as much.
  const std::string dax = info_of(node, "DAXType");
  if (dax == "NVM") return MemoryKind::kNvm;
  if (dax == "SPM") return MemoryKind::kSpm;
  return MemoryKind::kDram;
}

std::int32_t package_of(hwloc_topology_t topology, hwloc_obj_t object) {
  const hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_PACKAGE, object);
  return package != nullptr ? static_cast<std::int32_t>(package->logical_index) : -1;
}

class Assembler {
 public:
  Assembler(const HwlocSource& source, const DiscoveryOptions& options)
      : hwloc_(source.topology.get()), sysfs_(source.sysfs), options_(options) {
    if (sysfs_) system_nodes_ = sysfs_->nodes();
    tells_system_ = !sysfs_ || sysfs_->tells_system();
  }

  Result<Topology> assemble() {
    add_info();
    for (hwloc_obj_t node = nullptr;
         (node = hwloc_get_next_obj_by_type(hwloc_, HWLOC_OBJ_NUMANODE, node)) != nullptr;) {
      if (auto added = add_node(node); !added) return tl::unexpected(added.error());
    }
    for (hwloc_obj_t device = nullptr; (device = hwloc_get_next_osdev(hwloc_, device)) != nullptr;) {
      if (auto added = add_memory_device(device); !added) return tl::unexpected(added.error());
    }
    read_memory_attributes();
    for (Column& column : columns_) {
      column.nearest = nearest_figures(column);
      // Figures of CPUs that are offline hold for no others, whatever hwloc makes of them.
      if (column.cpus.empty()) column.by_cpus.clear();
    }
    if (auto added = add_cpus(); !added) return tl::unexpected(added.error());
    if (auto added = add_generic_initiators(); !added) return tl::unexpected(added.error());
    if (auto added = add_cells(); !added) return tl::unexpected(added.error());
    if (options_.devices) {
      if (auto added = add_pci_devices(hwloc_, sysfs_, topology_); !added) return tl::unexpected(added.error());
    }
    return std::move(topology_);
  }

 private:
  void add_info() {
    const hwloc_obj_t machine = hwloc_get_root_obj(hwloc_);
    topology_.info["source"] = options_.source.empty() ? "this machine" : options_.source;
    for (const char* key : {"DMIProductName", "HostName", "Architecture", "OSRelease"}) {
      // Of a captured tree hwloc knows these only from a file; else it gives this machine's.
      if (!tells_system_ && std::string_view(key) != "DMIProductName") continue;
      if (const auto value = info_of(machine, key); !value.empty()) topology_.info[key] = value;
    }
    const hwloc_obj_t package = hwloc_get_obj_by_type(hwloc_, HWLOC_OBJ_PACKAGE, 0);
    if (package == nullptr) return;
    if (const auto model = info_of(package, "CPUModel"); !model.empty()) topology_.info["CPUModel"] = model;
  }

  Result<void> add_node(hwloc_obj_t node) {
    if (node->attr->numanode.local_memory == 0) return {};  // CPUs or a generic initiator only
    Target target;
    target.name = fmt::format("node{}", node->os_index);
    target.parent = target.name;
    target.kind = kind_of_node(node);
    if (target.kind == MemoryKind::kDram && is_beside_slower_dram(node->os_index)) target.kind = MemoryKind::kHbm;
    target.node = static_cast<std::int32_t>(node->os_index);
    target.package = package_of(hwloc_, node);
    target.size = node->attr->numanode.local_memory;
    target.online = hwloc_bitmap_isset(hwloc_topology_get_allowed_nodeset(hwloc_), node->os_index) != 0;
    target.cpus = to_id_set(node->cpuset);
    if (sysfs_ && sysfs_->local_cpus_are_offline(node->os_index)) {
      // hwloc takes all others for local then.
      target.cpus = {};
      target.package = -1;
    }
    if (sysfs_) {
      target.free = sysfs_->free_memory(node->os_index);
      target.tier = sysfs_->memory_tier(node->os_index).value_or(-1);
      target.caches = sysfs_->memory_side_caches(node->os_index);
    } else {
      target.caches = memory_side_caches(node);
    }
    std::optional<Sysfs::AccessClass> by_node;
    if (sysfs_) by_node = sysfs_->access_class_0(node->os_index);
    return add_column(std::move(target), {}, std::move(by_node));
  }

  // A node without CPUs of its own of which the firmware says that it has half as much bandwidth again as the memory of
  // the CPUs that it is best for.
  bool is_beside_slower_dram(std::uint32_t node) const {
    if (!sysfs_ || !sysfs_->cpus_of_node(node).empty()) return false;
    const auto bandwidth = [this](std::uint32_t of) {
      const auto best = sysfs_->access_class_0(of);
      const auto figure = best ? best->properties.figure(Property::kBandwidth) : std::nullopt;
      return figure ? figure->number : 0;
    };
    const auto here = sysfs_->access_class_0(node);
    const auto nearest = here ? here->initiators.members() : std::vector<std::uint32_t>{};
    return std::ranges::any_of(nearest, [&](std::uint32_t cpus) {
      const std::uint64_t usual = sysfs_->cpus_of_node(cpus).empty() ? 0 : bandwidth(cpus);
      return usual != 0 && bandwidth(node) * 2 >= usual * 3;
    });
  }

  static std::vector<MemorySideCache> memory_side_caches(hwloc_obj_t node) {
    std::vector<MemorySideCache> caches;
    for (hwloc_obj_t parent = node->parent; parent != nullptr && parent->type == HWLOC_OBJ_MEMCACHE;
         parent = parent->parent) {
      caches.push_back({.size = parent->attr->cache.size, .line_size = parent->attr->cache.linesize});
    }
    return caches;
  }

  // DAX regions and CXL memory that the system does not use as NUMA nodes (yet).
  Result<void> add_memory_device(hwloc_obj_t device) {
    const std::string dax = info_of(device, "DAXType");
    const bool cxl = device->subtype != nullptr && std::string_view(device->subtype) == "CXLMem";
    if (dax.empty() && !cxl) return {};
    const hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(hwloc_, device);
    Target target;
    target.name = device->name != nullptr ? device->name : "";
    if (target.name.empty() || topology_.find(target.name) != nullptr) return {};
    target.kind = cxl ? MemoryKind::kCxl : dax == "NVM" ? MemoryKind::kNvm : MemoryKind::kSpm;
    target.size = cxl ? kibibytes(device, "CXLRAMSize") + kibibytes(device, "CXLPMEMSize") : kibibytes(device, "Size");
    target.online = false;
    target.package = package_of(hwloc_, place);
    target.cpus = to_id_set(place->cpuset);
    target.parent = info_of(device, "DAXParent");
    Properties own;
    const hwloc_obj_t pci = cxl ? hwloc_get_ancestor_obj_by_type(hwloc_, HWLOC_OBJ_PCI_DEVICE, device) : nullptr;
    if (pci != nullptr) {
      target.parent = pci_bus_address(pci);
      own = pci_link_figures(pci, sysfs_);
    }
    return add_column(std::move(target), own, std::nullopt);
  }

  // "524288KiB" as hwloc writes it; plain numbers are KiB too. In bytes.
  static std::uint64_t kibibytes(hwloc_obj_t object, const char* key) {
    std::string text = info_of(object, key);
    if (const auto unit = text.find("KiB"); unit != std::string::npos) text.resize(unit);
    std::uint64_t bytes = 0;
    return parse_size(text + "K", &bytes) ? bytes : 0;
  }

  Result<void> add_column(Target target, const Properties& own, std::optional<Sysfs::AccessClass> by_node) {
    Column column{.uid = kNoUid,
                  .cpus = target.cpus,
                  .node = target.node,
                  .by_cpus = {},
                  .by_node = std::move(by_node),
                  .own = own,
                  .nearest = {}};
    auto uid = topology_.add(std::move(target));
    if (!uid) return tl::unexpected(uid.error());
    column.uid = *uid;
    if (column.node >= 0) column_of_node_[static_cast<std::uint32_t>(column.node)] = columns_.size();
    columns_.push_back(std::move(column));
    return {};
  }

  // What the HMAT says, of access class 1 where there is one: hwloc looks there first.
  void read_memory_attributes() {
    constexpr std::pair<hwloc_memattr_id_t, Property> kAttributes[] = {
        {HWLOC_MEMATTR_ID_BANDWIDTH, Property::kBandwidth},
        {HWLOC_MEMATTR_ID_READ_BANDWIDTH, Property::kReadBandwidth},
        {HWLOC_MEMATTR_ID_WRITE_BANDWIDTH, Property::kWriteBandwidth},
        {HWLOC_MEMATTR_ID_LATENCY, Property::kLatency},
        {HWLOC_MEMATTR_ID_READ_LATENCY, Property::kReadLatency},
        {HWLOC_MEMATTR_ID_WRITE_LATENCY, Property::kWriteLatency}};
    for (hwloc_obj_t node = nullptr;
         (node = hwloc_get_next_obj_by_type(hwloc_, HWLOC_OBJ_NUMANODE, node)) != nullptr;) {
      const auto found = column_of_node_.find(node->os_index);
      if (found == column_of_node_.end()) continue;
      auto& figures = columns_[found->second].by_cpus;
      for (const auto& [attribute, property] : kAttributes) read_attribute(node, attribute, property, figures);
      for (FirmwareFigures& one : figures) one.properties = simplified(one.properties);
    }
  }

  void read_attribute(hwloc_obj_t node, hwloc_memattr_id_t attribute, Property property,
                      std::vector<FirmwareFigures>& figures) const {
    unsigned count = 0;
    if (hwloc_memattr_get_initiators(hwloc_, attribute, node, 0, &count, nullptr, nullptr) != 0 || count == 0) return;
    std::vector<hwloc_location> initiators(count);
    std::vector<hwloc_uint64_t> values(count);
    if (hwloc_memattr_get_initiators(hwloc_, attribute, node, 0, &count, initiators.data(), values.data()) != 0) return;
    for (std::size_t i = 0; i < std::min<std::size_t>(count, values.size()); ++i) {
      const bool by_cpus = initiators[i].type == HWLOC_LOCATION_TYPE_CPUSET;
      const IdSet cpus = to_id_set(by_cpus ? initiators[i].location.cpuset : initiators[i].location.object->cpuset);
      if (values[i] == 0 || cpus.empty()) continue;  // the HMAT's way to say that it does not know
      auto entry = std::find_if(figures.begin(), figures.end(), [&](const auto& f) { return f.cpus == cpus; });
      if (entry == figures.end()) entry = figures.insert(figures.end(), {cpus, {}});
      entry->properties.set(property, {values[i], Source::kFirmware});
    }
  }

  // What distances scale: the firmware's figures for the nearest initiators, completed with typical ones.
  Properties nearest_figures(const Column& column) const {
    Properties result = typical_figures(topology_.target(column.uid)->kind);
    if (!column.by_cpus.empty()) overlay(result, column.by_cpus.front().properties);
    return result;
  }

  // Takes what `above` has. A figure for both directions outdoes older ones for one, and the other way round.
  static void overlay(Properties& below, const Properties& above) {
    const auto replace = [&](Property both, Property read, Property write) {
      if (above.has(read) && above.has(write)) below.clear(both);
      if (above.has(both)) {
        below.clear(read);
        below.clear(write);
      }
      for (const Property property : {both, read, write}) {
        if (const auto value = above.get(property)) below.set(property, *value);
      }
    };
    replace(Property::kBandwidth, Property::kReadBandwidth, Property::kWriteBandwidth);
    replace(Property::kLatency, Property::kReadLatency, Property::kWriteLatency);
    for (const Property property : {Property::kBusWidth, Property::kGranularity}) {
      if (const auto value = above.get(property)) below.set(property, *value);
    }
  }

  // CPUs that no package, die, cluster, NUMA node or figure of the firmware tells apart are one initiator.
  Result<void> add_cpus() {
    std::vector<IdSet> regions;
    const auto add_regions = [&](hwloc_obj_type_t type) {
      for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_obj_by_type(hwloc_, type, o)) != nullptr;) {
        regions.push_back(to_id_set(o->cpuset));
      }
    };
    for (const hwloc_obj_type_t type : {HWLOC_OBJ_PACKAGE, HWLOC_OBJ_DIE}) add_regions(type);
    // Groups are on as many levels as there are: clusters, sub-NUMA clusters, groups of nodes.
    for (int depth = 0; depth < hwloc_topology_get_depth(hwloc_); ++depth) {
      if (hwloc_get_depth_type(hwloc_, depth) != HWLOC_OBJ_GROUP) continue;
      for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_obj_by_depth(hwloc_, depth, o)) != nullptr;) {
        regions.push_back(to_id_set(o->cpuset));
      }
    }
    for (const Column& column : columns_) {
      regions.push_back(column.cpus);
      for (const FirmwareFigures& figures : column.by_cpus) regions.push_back(figures.cpus);
    }
    std::map<std::vector<std::size_t>, IdSet> groups;
    for (hwloc_obj_t cpu = nullptr; (cpu = hwloc_get_next_obj_by_type(hwloc_, HWLOC_OBJ_PU, cpu)) != nullptr;) {
      std::vector<std::size_t> within;
      for (std::size_t i = 0; i < regions.size(); ++i) {
        if (regions[i].contains(cpu->os_index)) within.push_back(i);
      }
      groups[within].add(cpu->os_index);
    }
    std::vector<IdSet> ordered;
    ordered.reserve(groups.size());
    for (auto& [within, cpus] : groups) ordered.push_back(std::move(cpus));
    std::sort(ordered.begin(), ordered.end(), [](const IdSet& a, const IdSet& b) { return a.first() < b.first(); });
    for (const IdSet& cpus : ordered) {
      if (auto added = add_cpu_group(cpus); !added) return added;
    }
    return {};
  }

  // "cpu3", "cpu0-7", or "cpu0+19": CPU 0 and 19 more that are not in a row.
  static std::string name_of_cpus(const IdSet& cpus) {
    const std::string list = cpus.to_string();
    const bool in_a_row = list.find(',') == std::string::npos;
    return in_a_row ? "cpu" + list : fmt::format("cpu{}+{}", cpus.first(), cpus.count() - 1);
  }

  Result<void> add_cpu_group(const IdSet& cpus) {
    Initiator initiator;
    initiator.name = name_of_cpus(cpus);
    initiator.parent = fmt::format("cpu{}", cpus.first());
    initiator.cpus = cpus;
    initiator.node = node_of_cpus(cpus);
    const hwloc_obj_t first = hwloc_get_pu_obj_by_os_index(hwloc_, cpus.first());
    initiator.package = package_of(hwloc_, first);
    return add_row(std::move(initiator));
  }

  // The node that the kernel files these CPUs under, also if it has no memory; else the most local one with memory.
  std::int32_t node_of_cpus(const IdSet& cpus) const {
    for (const auto node : system_nodes_.members()) {
      if (sysfs_->cpus_of_node(node).contains(cpus.first())) return static_cast<std::int32_t>(node);
    }
    const Column* best = nullptr;
    for (const Column& column : columns_) {
      if (column.node < 0 || !column.cpus.includes(cpus)) continue;
      if (best == nullptr || column.cpus.count() < best->cpus.count()) best = &column;
    }
    return best != nullptr ? best->node : -1;
  }

  Result<void> add_generic_initiators() {
    if (!sysfs_) return {};
    for (const auto node : sysfs_->generic_initiators().members()) {
      Initiator initiator;
      initiator.name = fmt::format("node{}-initiator", node);
      initiator.parent = fmt::format("node{}", node);
      initiator.kind = InitiatorKind::kGeneric;
      initiator.node = static_cast<std::int32_t>(node);
      if (auto added = add_row(std::move(initiator)); !added) return added;
    }
    return {};
  }

  Result<void> add_row(Initiator initiator) {
    Row row{.uid = kNoUid, .cpus = initiator.cpus, .node = initiator.node, .distances = distances_from(initiator.node)};
    auto uid = topology_.add(std::move(initiator));
    if (!uid) return tl::unexpected(uid.error());
    row.uid = *uid;
    // Generic initiators have no CPUs.
    if (topology_.initiator(row.uid)->kind == InitiatorKind::kGeneric) row.cpus = {};
    rows_.push_back(std::move(row));
    return {};
  }

  std::map<std::uint32_t, std::uint32_t> distances_from(std::int32_t node) {
    if (node < 0) return {};
    if (sysfs_) return sysfs_->distances_from(static_cast<std::uint32_t>(node), system_nodes_);
    if (matrix_.empty()) read_matrix();
    const auto row = matrix_.find(static_cast<std::uint32_t>(node));
    return row != matrix_.end() ? row->second : std::map<std::uint32_t, std::uint32_t>{};
  }

  void read_matrix() {
    unsigned count = 1;
    hwloc_distances_s* distances = nullptr;
    if (hwloc_distances_get_by_name(hwloc_, "NUMALatency", &count, &distances, 0) != 0 || count == 0) return;
    for (unsigned i = 0; i < distances->nbobjs; ++i) {
      for (unsigned j = 0; j < distances->nbobjs; ++j) {
        if (distances->objs[i] == nullptr || distances->objs[j] == nullptr) continue;
        const auto value = std::min<hwloc_uint64_t>(distances->values[i * distances->nbobjs + j], UINT32_MAX);
        matrix_[distances->objs[i]->os_index][distances->objs[j]->os_index] = static_cast<std::uint32_t>(value);
      }
    }
    hwloc_distances_release(hwloc_, distances);
  }

  static std::uint32_t distance(const Row& row, const Column& column) {
    // Where the firmware or hwloc says local, it is; the SLIT has rows for nodes only, not for what lies beside them.
    if (row.cpus.intersects(column.cpus)) return kLocalDistance;
    if (column.node < 0) return kRemoteDistance;
    const auto found = row.distances.find(static_cast<std::uint32_t>(column.node));
    if (found == row.distances.end()) return kRemoteDistance;
    return std::max(found->second, kLocalDistance);
  }

  // Figures of the nearest initiators seen from farther away: nobody says so, hence assumed.
  static Properties scaled(const Properties& nearest, std::uint32_t distance) {
    Properties result;
    for (std::size_t i = 0; i < kPropertyCount; ++i) {
      const auto property = static_cast<Property>(i);
      const auto value = nearest.get(property);
      if (!value) continue;
      const double factor = static_cast<double>(distance) / kLocalDistance;
      const auto number = static_cast<double>(value->number);
      Value scaled{value->number, Source::kAssumed};
      if (unit_of(property) == "MiB/s") scaled.number = static_cast<std::uint64_t>(std::llround(number / factor));
      if (unit_of(property) == "ns") scaled.number = static_cast<std::uint64_t>(std::llround(number * factor));
      if (unit_of(property) == "bits" || unit_of(property) == "bytes") scaled.source = value->source;
      result.set(property, scaled);
    }
    return result;
  }

  // What the firmware says about just this pair.
  static const Properties* firmware_figures(const Row& row, const Column& column) {
    if (row.cpus.empty()) {
      const bool listed =
          column.by_node && row.node >= 0 && column.by_node->initiators.contains(static_cast<std::uint32_t>(row.node));
      return listed ? &column.by_node->properties : nullptr;
    }
    const FirmwareFigures* best = nullptr;
    for (const FirmwareFigures& figures : column.by_cpus) {
      if (!figures.cpus.includes(row.cpus)) continue;
      if (best == nullptr || figures.cpus.count() < best->cpus.count()) best = &figures;
    }
    return best != nullptr ? &best->properties : nullptr;
  }

  PathFigures cell(const Row& row, const Column& column) const {
    PathFigures figures;
    const std::uint32_t far = distance(row, column);
    figures.properties = scaled(column.nearest, far);
    overlay(figures.properties, column.own);
    if (const Properties* said = firmware_figures(row, column)) overlay(figures.properties, simplified(*said));
    if (options_.measurements != nullptr) overlay_measured(figures.properties, row, column);
    return figures;
  }

  void overlay_measured(Properties& figures, const Row& row, const Column& column) const {
    const Properties measured =
        options_.measurements->get(topology_.initiator(row.uid)->name, topology_.target(column.uid)->name);
    Properties wanted;
    for (std::size_t i = 0; i < kPropertyCount; ++i) {
      const auto property = static_cast<Property>(i);
      const auto known = figures.figure(property);
      const auto value = measured.get(property);
      if (value && (!known || known->source == Source::kAssumed)) wanted.set(property, *value);
    }
    overlay(figures, wanted);
  }

  Result<void> add_cells() {
    CellTable cells(rows_.size(), columns_.size());
    std::vector<Uid> initiators, targets;
    for (const Row& row : rows_) initiators.push_back(row.uid);
    for (const Column& column : columns_) targets.push_back(column.uid);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      for (std::size_t j = 0; j < columns_.size(); ++j) cells.set(i, j, cell(rows_[i], columns_[j]));
    }
    if (auto added = cells.add_links(topology_, initiators, targets); !added) return tl::unexpected(added.error());
    return {};
  }

  hwloc_topology_t hwloc_;
  const std::optional<Sysfs>& sysfs_;
  const DiscoveryOptions& options_;
  IdSet system_nodes_;
  bool tells_system_ = true;
  Topology topology_;
  std::vector<Row> rows_;
  std::vector<Column> columns_;
  std::map<std::uint32_t, std::size_t> column_of_node_;
  std::map<std::uint32_t, std::map<std::uint32_t, std::uint32_t>> matrix_;  // hwloc's, by node ids
};

}  // namespace

Properties typical_figures(MemoryKind kind) {
  struct Typical {
    std::uint64_t bandwidth, latency;  // MiB/s, ns: orders of magnitude of machines of the 2020s
  };
  const auto figures = [kind]() -> Typical {
    switch (kind) {
      case MemoryKind::kDram:
        return {50'000, 100};
      case MemoryKind::kHbm:
        return {200'000, 120};
      case MemoryKind::kNvm:
        return {10'000, 300};
      case MemoryKind::kCxl:
        return {25'000, 250};
      case MemoryKind::kSpm:
        return {50'000, 120};
      case MemoryKind::kDevice:
        return {200'000, 300};
      case MemoryKind::kOther:
        break;
    }
    return {20'000, 200};
  }();
  Properties properties;
  properties.set(Property::kBandwidth, {figures.bandwidth, Source::kAssumed});
  properties.set(Property::kLatency, {figures.latency, Source::kAssumed});
  return properties;
}

Result<Topology> discover(const DiscoveryOptions& options) {
  return options.source.empty() ? discover_here(options) : read_in_other_process(options.source, options.devices);
}

Result<Topology> discover_here(const DiscoveryOptions& options) {
  auto source = load_hwloc(options.source);
  if (!source) return tl::unexpected(source.error());
  return Assembler(*source, options).assemble();
}

}  // namespace mirrorcl::hms
