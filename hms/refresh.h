// SPDX-License-Identifier: Apache-2.0
// Looking at a machine again: what has been plugged in, taken out or changed, with the uids that are known kept.
//
//   auto fresh = load("");
//   fresh = with_device(*fresh, ...);                  // devices of this process add themselves again
//   Refreshed now = refresh(*known, *fresh);
//   for (const auto& name : now.removed) ...
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "hms/api.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

struct Refreshed {
  Topology topology;  // as `fresh`, with the uids of `known` for what is in both
  // Names of targets and initiators.
  std::vector<std::string> added;
  std::vector<std::string> removed;
  std::vector<std::string> changed;  // in anything but free space
};

// Objects are the same if they have the same name and type; CPUs of which some went offline, by the CPUs that are left;
// links and bridges also by what they join. What is new gets uids that `known` never gave.
HMS_API Refreshed refresh(const Topology& known, const Topology& fresh);

// Only how much is free in this machine's NUMA nodes, which takes microseconds per node.
HMS_API void refresh_free_space(Topology& topology);

}  // namespace mirrorcl::hms
