// SPDX-License-Identifier: Apache-2.0
// Where the memory of a live process is, seen from outside and without stopping it: the kernel's account of its pages
// by NUMA node, and the device memory that the driver keeps for it. That is a sparse file whose offset is the address,
// so what it holds is what lives on the device.
//
// The process runs meanwhile: pages that move while it is looked at may be counted twice or not at all.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hms/api.h"
#include "hms/policy.h"

namespace mirrorcl::hms {

// Pages are of 4 KiB; larger ones count as so many.
struct MappingResidency {
  AddressRange range{};
  std::string name;                         // a file, "[heap]", "[stack]", or nothing
  std::map<int, std::uint64_t> node_pages;  // by NUMA node
  std::uint64_t device_pages = 0;           // in device memory
  bool shared_with_device = false;          // the process has device memory mapped here: no page of the nodes' counts
};

struct ProcessResidency {
  pid_t pid = 0;
  std::string command;                     // its name
  std::vector<MappingResidency> mappings;  // that hold any page, in order of address
  bool has_device = false;                 // the process has device memory

  std::map<int, std::uint64_t> node_pages() const;
  std::uint64_t device_pages() const;         // all
  std::uint64_t shared_device_pages() const;  // those of them that the process has mapped
};

// kInvalidArgument: no such process, or not this user's; the message says which.
HMS_API Result<ProcessResidency> read_residency(pid_t pid);

// One page of a live process.
struct PageResidency {
  std::string mapping;     // its name, as in MappingResidency; nothing also if the memory has none
  bool mapped = false;     // the address is anybody's
  bool on_host = false;    // the process has a page there (maybe swapped out)
  bool on_device = false;  // device memory holds it
  bool shared = false;     // it is device memory that the process has mapped
  bool pinned = false;     // it is host memory that devices map too
  int node = -1;           // the NUMA node of what the process has mapped; -1: nothing, or this is not to be told
};
// As read_residency().
HMS_API Result<PageResidency> read_page_residency(pid_t pid, std::uint64_t address);

// The mappings of /proc/PID/maps with the counts of /proc/PID/numa_maps; those without a page too. Lines that are
// neither are skipped.
HMS_API std::vector<MappingResidency> parse_mappings(std::string_view maps, std::string_view numa_maps);

// Adds the pages that the file `fd`, whose offset is the address, holds to the mappings that they lie in. Restores no
// file offset.
HMS_API void add_device_pages(int fd, std::vector<MappingResidency>& mappings);

// What the driver calls device memory: the name of its file in /proc/PID/fd and /proc/PID/maps.
inline constexpr std::string_view kDeviceMemoryFile = "/memfd:mirrorcl-device-memory";
// And host memory that devices map too: pages that they share with the application because it cannot map theirs, and
// allocations that were asked for on a node.
inline constexpr std::string_view kPinnedMemoryFiles[] = {"/memfd:mirrorcl-pinned-memory",
                                                          "/memfd:mirrorcl-host-memory"};

}  // namespace mirrorcl::hms
