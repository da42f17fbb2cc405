// SPDX-License-Identifier: Apache-2.0
// From what hwloc and sysfs know of a machine to a topology.
//
//   targets      NUMA nodes; DAX regions and CXL memory that are not yet NUMA nodes, offline
//   initiators   CPUs, grouped by package, die, cluster and NUMA node; generic initiators; PCI devices that access
//   memory figures      from the HMAT where the firmware has it (CPUs' access class 1 before 0), for PCI devices from
//   their link's speed;
//                else as measured on this machine; else typical ones of the kind of memory, scaled by the SLIT distance
//
// Every figure says which of these it is (Source).
#pragma once

#include <string>

#include "base/result.h"
#include "hms/api.h"
#include "hms/measurements.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

struct DiscoveryOptions {
  std::string source = {};  // an hwloc XML file or a captured sysfs tree; "": this machine (see load_hwloc)
  bool devices = true;      // PCI devices too
  const Measurements* measurements = nullptr;  // of this machine: replace assumed figures
};

// Another machine's files are read by a process of their own, mirrorcl-hms-reader: hwloc reads captured trees only as
// directed by the environment, and does not survive every damaged file.
HMS_API Result<Topology> discover(const DiscoveryOptions& options = {});

// The same in this process; for the reader.
Result<Topology> discover_here(const DiscoveryOptions& options);

// Figures that nobody gave, typical of the kind of memory; source: assumed.
HMS_API Properties typical_figures(MemoryKind kind);

}  // namespace mirrorcl::hms
