// SPDX-License-Identifier: Apache-2.0
// Loads what hwloc knows of a machine: the running one, an XML file, or a captured sysfs tree.
#pragma once

#include <hwloc.h>

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "hms/id_set.h"
#include "hms/sysfs.h"

namespace mirrorcl::hms {

struct HwlocDelete {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};

struct HwlocSource {
  std::unique_ptr<hwloc_topology, HwlocDelete> topology;
  std::optional<Sysfs> sysfs;  // nothing if the machine's sysfs is not at hand: an XML file
};

// `path` is an XML file or a captured tree; "" is the running machine, or what HWLOC_XMLFILE and HWLOC_FSROOT say.
// While a captured tree is read, HWLOC_FSROOT is set in the environment of the process: no other thread may be reading
// that.
Result<HwlocSource> load_hwloc(const std::string& path);

IdSet to_id_set(hwloc_const_bitmap_t bitmap);

}  // namespace mirrorcl::hms
