// SPDX-License-Identifier: Apache-2.0
// The reference machine of the 2018 proposal, for tests and as an example of what the model can say.
//
// Two nodes; each has one CPU of two complexes with 200 GB/s of HBM each, the complexes joined at 100 GB/s, and DDR at
// 90 GB/s. Each node's PCIe root, 60 GB/s, leads to two GPUs with 1000 GB/s of HBM that CPUs cannot access and 500 GB/s
// of GDDR that they can. The four GPUs are joined at 400 GB/s. What the proposal leaves open is ours: two GPUs per
// node, latencies, sizes, 50 GB/s between the nodes.
//
// Names: "cx<node><complex>", "hbm<node><complex>", "ddr<node>", "gpu<n>", "gpu<n>-hbm", "gpu<n>-gddr". NUMA node ids:
// 0 and 1 are the DDR, 2 to 5 the HBM. GPUs are the devices "gpu0" to "gpu3"; 8 CPUs per complex.
#pragma once

#include "hms/api.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

HMS_API Topology reference_machine();

}  // namespace mirrorcl::hms
