// SPDX-License-Identifier: Apache-2.0
#include "hms/discovery_pci.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "hms/hwloc_source.h"

namespace mirrorcl::hms {
namespace {

// Of one way through a PCI Express hierarchy; nobody tells.
constexpr Value kAssumedLinkLatency{400, Source::kAssumed};
constexpr Value kAssumedRootLatency{100, Source::kAssumed};

bool accesses_memory(hwloc_obj_t device) {
  // PCI base classes: mass storage, network, display, processor, processing accelerator.
  constexpr std::array<unsigned, 5> kClasses = {0x01, 0x02, 0x03, 0x0b, 0x12};
  const unsigned base_class = device->attr->pcidev.class_id >> 8;
  return std::find(kClasses.begin(), kClasses.end(), base_class) != kClasses.end();
}

// The links over which the CPUs near a device access memory.
std::vector<Uid> links_near(const Topology& topology, const IdSet& cpus) {
  for (const Initiator& initiator : topology.initiators()) {
    if (initiator.kind != InitiatorKind::kCpu || !initiator.cpus.intersects(cpus)) continue;
    std::vector<Uid> links;
    for (const Link& link : topology.links()) {
      if (std::binary_search(link.initiators.begin(), link.initiators.end(), initiator.uid)) links.push_back(link.uid);
    }
    return links;
  }
  return {};
}

Result<void> add_device(hwloc_topology_t hwloc, hwloc_obj_t device, const std::optional<Sysfs>& sysfs,
                        Topology& topology) {
  const hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(hwloc, device);
  const hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(hwloc, HWLOC_OBJ_PACKAGE, device);
  Initiator initiator;
  initiator.name = pci_bus_address(device);
  initiator.parent = initiator.name;
  initiator.device = initiator.name;
  initiator.kind = InitiatorKind::kDevice;
  initiator.cpus = to_id_set(place->cpuset);
  if (package != nullptr) initiator.package = static_cast<std::int32_t>(package->logical_index);
  const auto near = std::find_if(topology.initiators().begin(), topology.initiators().end(), [&](const Initiator& i) {
    return i.kind == InitiatorKind::kCpu && i.cpus.intersects(initiator.cpus);
  });
  // A device that all of a larger machine is equally near to belongs to no node.
  if (near != topology.initiators().end() && near->cpus.includes(initiator.cpus)) initiator.node = near->node;
  const std::string name = initiator.name;
  const auto near_links = links_near(topology, initiator.cpus);
  auto uid = topology.add(std::move(initiator));
  if (!uid) return tl::unexpected(uid.error());

  Link link;
  link.name = fmt::format("{}-link", name);
  link.initiators = {*uid};
  link.properties = pci_link_figures(device, sysfs);
  link.atomic = false;  // PCI Express atomics are optional, and not the CPU's
  const auto bandwidth = link.properties.get(Property::kBandwidth);
  link.properties.set(Property::kLatency, kAssumedLinkLatency);
  auto link_uid = topology.add(std::move(link));
  if (!link_uid) return tl::unexpected(link_uid.error());

  for (const Uid to : near_links) {
    Bridge bridge;
    bridge.name = fmt::format("{}>{}", name, topology.link(to)->name);
    bridge.from = *link_uid;
    bridge.to = to;
    bridge.initiators = {*uid};
    bridge.atomic = false;
    if (bandwidth) bridge.properties.set(Property::kBandwidth, *bandwidth);
    bridge.properties.set(Property::kLatency, kAssumedRootLatency);
    if (auto added = topology.add(std::move(bridge)); !added) return tl::unexpected(added.error());
  }
  return {};
}

}  // namespace

std::string pci_bus_address(hwloc_obj_t device) {
  const auto& pci = device->attr->pcidev;
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", pci.domain, pci.bus, pci.dev, pci.func);
}

Properties pci_link_figures(hwloc_obj_t device, const std::optional<Sysfs>& sysfs) {
  Properties properties;
  const double gigabytes_per_s = static_cast<double>(device->attr->pcidev.linkspeed);
  if (gigabytes_per_s > 0 && gigabytes_per_s < 1e6) {
    properties.set(Property::kBandwidth, {mib_per_s(gigabytes_per_s), Source::kFirmware});
  }
  if (!sysfs) return properties;
  if (const auto width = sysfs->pci_link_width(pci_bus_address(device))) {
    properties.set(Property::kBusWidth, {*width, Source::kFirmware});
  }
  return properties;
}

Result<void> add_pci_devices(hwloc_topology_t hwloc, const std::optional<Sysfs>& sysfs, Topology& topology) {
  for (hwloc_obj_t device = nullptr; (device = hwloc_get_next_pcidev(hwloc, device)) != nullptr;) {
    if (!accesses_memory(device) || topology.find(pci_bus_address(device)) != nullptr) continue;
    if (auto added = add_device(hwloc, device, sysfs, topology); !added) return added;
  }
  return {};
}

}  // namespace mirrorcl::hms
