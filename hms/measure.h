// SPDX-License-Identifier: Apache-2.0
// Measures what firmware does not tell: bandwidth by streams, latency by a chase of pointers.
//
// Best case, like firmware's figures: nobody else should be busy. Reads: all CPUs of the initiator read their parts of
// one buffer in the target. Copies: they copy one half of their parts to the other, and both directions count; this is
// the bandwidth of "reads and writes". Latency: one CPU follows a random cycle through a buffer of several times the
// last-level cache.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "hms/api.h"
#include "hms/measurements.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

struct MeasureOptions {
  std::chrono::milliseconds time{200};  // for each of the three
  std::uint64_t bytes = 0;              // of the buffer; 0: four times the last-level cache, from 64 MiB to 1 GiB
  bool all = false;                     // measure_machine(): also pairs whose figures the firmware gives
};

// Bandwidth (copies), read bandwidth and latency of a CPU initiator's accesses to a NUMA node of this machine.
// kInvalidArgument if they are not such; kNotSupported if this process may not run on the CPUs or allocate on the node;
// kOutOfHostMemory if the node has not enough free memory.
HMS_API Result<Properties> measure(const Initiator& initiator, const Target& target,
                                   const MeasureOptions& options = {});

// Measures every pair of CPUs and online NUMA nodes whose bandwidth or latency is assumed. `progress` is called before
// each pair. A pair that cannot be measured is left out, and reported to `skipped` with the reason.
using PairReport = std::function<void(const Initiator&, const Target&)>;
using PairFailure = std::function<void(const Initiator&, const Target&, const Error&)>;
HMS_API Measurements measure_machine(const Topology& topology, const MeasureOptions& options,
                                     const PairReport& progress, const PairFailure& skipped);

}  // namespace mirrorcl::hms
