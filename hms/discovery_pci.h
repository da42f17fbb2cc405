// SPDX-License-Identifier: Apache-2.0
// PCI devices as initiators: their link, and bridges from it to the links of the CPUs that they are near.
#pragma once

#include <hwloc.h>

#include <optional>
#include <string>

#include "base/result.h"
#include "hms/sysfs.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// "0000:3b:00.0"
std::string pci_bus_address(hwloc_obj_t device);

// Bandwidth of the device's link in use, and its width if sysfs tells: nothing where hwloc does not know the speed.
Properties pci_link_figures(hwloc_obj_t device, const std::optional<Sysfs>& sysfs);

// Adds the devices that access memory: storage, network, display, processors and accelerators. `topology` has the CPUs
// and their links.
Result<void> add_pci_devices(hwloc_topology_t hwloc, const std::optional<Sysfs>& sysfs, Topology& topology);

}  // namespace mirrorcl::hms
