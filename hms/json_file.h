// SPDX-License-Identifier: Apache-2.0
// Topologies as JSON, format "mirrorcl-hms" (docs/hms.md has the keys and an example).
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "hms/api.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// Everything that the topology holds; from_json() of it is equal to the topology.
HMS_API std::string to_json(const Topology& topology);

// kInvalidArgument with the place and the reason if `text` is not such a file. Written by hand, a file may leave out
// uids (they are given in order) and whatever has a default, name members instead of numbering them, and give plain
// numbers as figures: their source is then "configured". Unknown keys are refused, for they are mistyped ones.
HMS_API Result<Topology> from_json(std::string_view text);

}  // namespace mirrorcl::hms
