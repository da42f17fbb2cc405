// SPDX-License-Identifier: Apache-2.0
// A topology for people: as a text, as a graph for graphviz, as a drawing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "hms/api.h"
#include "hms/properties.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// By package: its memories, and its initiators each with the targets that are best for it (at most `most` of them).
HMS_API std::string to_text(const Topology& topology, std::size_t most = 8);

// A graph for graphviz: memories are boxes, initiators ellipses, links points with their figures, bridges dashed
// arrows.
HMS_API std::string to_dot(const Topology& topology);

// A drawing in the manner of a bus diagram: memories above, initiators below, every link a horizontal line between
// them, bridges dashed lines from link to link on the right. Needs no other program.
HMS_API std::string to_svg(const Topology& topology);

HMS_API std::string bytes_text(std::uint64_t bytes);              // "93.0 GiB"
HMS_API std::string time_text(std::uint64_t ns);                  // "4.1 us"
HMS_API std::string bandwidth_text(std::uint64_t mib_per_s);      // "128.0 GiB/s"
HMS_API std::string figure_text(Property property, Value value);  // "128.0 GiB/s", "26 ns"

}  // namespace mirrorcl::hms
