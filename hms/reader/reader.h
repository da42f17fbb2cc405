// SPDX-License-Identifier: Apache-2.0
// Reading another machine's files in a process of its own, mirrorcl-hms-reader.
#pragma once

#include <string>

#include "base/result.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// Runs the reader on an hwloc XML file or a captured tree. kInvalidArgument if it refuses the file or crashes on it,
// kSystem if it cannot be started or takes more than a minute.
Result<Topology> read_in_other_process(const std::string& source, bool devices);

// What the reader writes: one of these and then the topology as JSON, or a message.
inline constexpr char kReadTopology = 'T';
inline constexpr char kReadError = 'E';

}  // namespace mirrorcl::hms
