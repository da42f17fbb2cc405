// SPDX-License-Identifier: Apache-2.0
// Some things can only be measured in a fresh process: this program runs itself again as a "probe" that prints numbers.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace mirrorcl::bench {

// Runs this executable with `--probe name arguments...` and the given changes of the environment; returns the lines
// "key value" that it printed. Throws std::runtime_error if it fails.
std::map<std::string, double> run_probe(const std::string& name, const std::vector<std::string>& arguments,
                                        const std::map<std::string, std::string>& environment = {});

// The probes; each prints "key value" lines on standard output and returns the exit status.
int bare_fault_probe(int batches);
int startup_probe(const std::string& platform);
int first_touch_probe(const std::string& platform);
// `pages`: "malloc" or "huge"; `trips`: "round_trips", which accesses cause, or "asked_trips".
int round_trips_probe(const std::string& platform, const std::string& pages, const std::string& trips, int rounds);
int pressure_probe(const std::string& platform);
int ahead_probe(const std::string& platform, const std::string& behind, std::size_t mib);
int idle_probe(const std::string& platform);  // "none": without one

}  // namespace mirrorcl::bench
