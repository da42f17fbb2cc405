// SPDX-License-Identifier: Apache-2.0
// What hms/ reads in sysfs itself, because hwloc does not tell it: access classes of generic initiators, free memory,
// distances of nodes without memory, memory tiers, policies of memory-side caches, PCIe link widths. Of the running
// machine, or of a captured tree.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hms/id_set.h"
#include "hms/properties.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

class Sysfs {
 public:
  // `root` is the folder that holds sys/; "" for the running machine.
  explicit Sysfs(std::string root) : root_(std::move(root)) {}

  // Whether `root` looks like a captured tree.
  static bool is_captured_tree(const std::string& root);

  // Whether a captured tree holds what uname(2) said on its machine, in hwloc's file; true on the running machine.
  bool tells_system() const;

  IdSet nodes() const;           // all NUMA nodes, also those without memory
  IdSet possible_nodes() const;  // and those that may come while the machine runs; empty: not known
  IdSet generic_initiators() const;
  IdSet cpus_of_node(std::uint32_t node) const;
  // None of the CPUs that `node` is local to is online: its own, or those of the nodes whose figures the firmware
  // gives.
  bool local_cpus_are_offline(std::uint32_t node) const;
  // The SLIT's row: relative latency from `node` to each of `nodes`, which is what nodes() returned; 10 is local. Empty
  // if unknown.
  std::map<std::uint32_t, std::uint32_t> distances_from(std::uint32_t node, const IdSet& nodes) const;

  // The figures that HMAT access class 0 gives for the best initiators of `node`, and which nodes these are.
  struct AccessClass {
    IdSet initiators;
    Properties properties;
  };
  std::optional<AccessClass> access_class_0(std::uint32_t node) const;

  // Bytes that can be allocated without swapping: free ones and inactive page cache.
  std::optional<std::uint64_t> free_memory(std::uint32_t node) const;
  std::optional<std::int32_t> memory_tier(std::uint32_t node) const;                  // 0 is the fastest that there is
  std::vector<MemorySideCache> memory_side_caches(std::uint32_t node) const;          // nearest to the memory first
  std::optional<std::uint64_t> pci_link_width(const std::string& bus_address) const;  // lanes in use

 private:
  // The nodes from which the firmware says that `node` is reached best.
  IdSet initiators(std::uint32_t node, const char* access_class) const;
  std::optional<std::string> read(const std::string& path) const;
  std::optional<std::uint64_t> read_number(const std::string& path) const;
  IdSet read_ids(const std::string& path) const;
  std::vector<std::string> list(const std::string& folder) const;  // sorted names

  std::string root_;
};

}  // namespace mirrorcl::hms
