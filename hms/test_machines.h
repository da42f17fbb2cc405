// SPDX-License-Identifier: Apache-2.0
// What several tests of hms/ share: a large synthetic machine, mutations of files, and a walk over a topology that
// nobody checked.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "hms/topology.h"

namespace mirrorcl::hms {

// `nodes` NUMA nodes of 4 CPUs, eight to a package. Own node 100,000 MiB/s and 80 ns, own package 50,000 and 120,
// others 20,000 and 200.
Topology many_nodes(std::uint32_t nodes);

// `text` with one to four of: bytes changed, a piece removed, repeated or moved, a number replaced by an extreme one.
std::string mutated(std::string text, std::mt19937& random);

// Asks `topology` everything once; for files that may say anything. Answers are not checked, crashes are.
void exercise(const Topology& topology);

}  // namespace mirrorcl::hms
