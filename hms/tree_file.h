// SPDX-License-Identifier: Apache-2.0
// A topology as a tree of folders with the names of the 2018 proposal's sysfs: what programs that parse
// /sys/bus/hms/devices would see.
//
//   v0-3-target/      uid nid size, and what else the model knows: one file each; symbolic links to its links
//   v0-9-initiator/   uid ...; symbolic links to its links and bridges
//   v0-12-link/       uid, a file for each figure ("bandwidth", and "bandwidth_source"); symbolic links to its
//   initiators and targets v0-15-bridge/     uid, figures, from, to; symbolic links to its two links and its initiators
//   next_uid, info    what belongs to no object
#pragma once

#include <string>

#include "base/result.h"
#include "hms/api.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// Makes the folder, which must not exist yet or be empty. kInvalidArgument if it is not; kSystem if a file cannot be
// written.
HMS_API Result<void> write_tree(const Topology& topology, const std::string& folder);

// read_tree() of what write_tree() wrote is equal to the topology.
HMS_API Result<Topology> read_tree(const std::string& folder);

HMS_API bool is_topology_tree(const std::string& folder);

}  // namespace mirrorcl::hms
