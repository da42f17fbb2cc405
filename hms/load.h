// SPDX-License-Identifier: Apache-2.0
// A topology from any of the sources that this library reads.
#pragma once

#include <string>

#include "base/result.h"
#include "hms/api.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// `path` is one of: our JSON, hwloc XML, a captured sysfs tree, a tree of the proposal's (tree_file.h); told apart by
// what is in it.
// "" is the running machine (discovery.h), with the figures that were measured on it, unless HWLOC_FSROOT or
// HWLOC_XMLFILE name another. Errors name the file and what to do.
HMS_API Result<Topology> load(const std::string& path);

}  // namespace mirrorcl::hms
