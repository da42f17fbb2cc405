// SPDX-License-Identifier: Apache-2.0
// Every environment variable that MirrorCL reads, in one place (docs/options.md is the table for users). Read once, at
// the first call of options().
#pragma once

#include <cstdint>
#include <string>

namespace mirrorcl {

enum class DeviceKind {
  kAuto,      // mirrored; ATS where that cannot be had
  kMirrored,  // page tables of its own, kept equal to the application's by the mirror
  kAts,       // the application's own page tables
};

struct Options {
  std::string log = "warning";            // MIRRORCL_LOG
  DeviceKind device = DeviceKind::kAuto;  // MIRRORCL_DEVICE: auto, mirrored or ats
  std::uint32_t devices = 1;              // MIRRORCL_DEVICES: how many devices the platform has, at least 1
  std::uint32_t compute_units = 0;        // MIRRORCL_COMPUTE_UNITS: 0 = the CPUs this process may run on
  std::uint64_t device_memory = 0;        // MIRRORCL_DEVICE_MEMORY: bytes (K, M, G); 0 = half of what may be used
  std::uint64_t spare_memory = 0;         // MIRRORCL_SPARE_MEMORY: bytes kept at most for pages that come home
  bool private_memory = false;            // MIRRORCL_DEVICE_MEMORY_KIND=private: the CPU does not map device memory
  // MIRRORCL_DEVICE_MEMORY_NODE: a NUMA node's number, or one of these
  static constexpr int kBestNode = -1;  // auto: the one that the topology says is best
  static constexpr int kAnyNode = -2;   // none: wherever the kernel likes
  int device_memory_node = kBestNode;
  std::uint32_t spin_us = 50;  // MIRRORCL_SPIN_US: how long units and waits spin before they sleep
  std::string library_dir;     // MIRRORCL_LIBRARY_DIR: where firmware and compiler service lie
  std::string pocl_library;    // MIRRORCL_POCL: path of libpocl; empty = Debian's
  std::string cache_dir;       // MIRRORCL_CACHE_DIR, else XDG_CACHE_HOME/mirrorcl, else ~/.cache/mirrorcl
  bool cache = true;           // MIRRORCL_CACHE=0 switches the compiler's disk cache off
  // MIRRORCL_LAUNCH_AHEAD: whether what launches that wait name comes ahead of them
  enum class LaunchAhead { kNever, kOnSpareCpus, kAlways };
  LaunchAhead launch_ahead = LaunchAhead::kOnSpareCpus;
  bool evacuate = false;       // MIRRORCL_EVACUATE=1: a test mode, see mirror/evacuation.h
  std::string disable_reason;  // set when MIRRORCL_DISABLE=1: the platform offers no device
};

const Options& options();

// "64M" -> 67108864. Returns false and leaves *bytes alone if `text` is not a number with an optional K, M, G or T.
bool parse_size(const std::string& text, std::uint64_t* bytes);

}  // namespace mirrorcl
