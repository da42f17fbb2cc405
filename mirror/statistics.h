// SPDX-License-Identifier: Apache-2.0
// What the mirror has done since it started. Counters only grow. Kept in the window, written by the service thread,
// readable at any time from any thread without a lock, and from other processes (mirror/live.h). A new one needs its
// name in counters.cpp.
#pragma once

#include <cstdint>

namespace mirrorcl::mirror {

struct Statistics {
  std::uint64_t device_faults;         // faults read from devices
  std::uint64_t device_faults_failed;  // answered with an error
  std::uint64_t cpu_faults;            // faults of the application's threads on pages away from the host
  std::uint64_t replays;               // device accesses released after service
  std::uint64_t pages_to_device;       // pages whose contents were copied to device memory, or refused by it
  std::uint64_t bytes_to_device;
  std::uint64_t pages_zero_filled;  // pages the host never touched, given to the device without a copy
  std::uint64_t pages_to_host;      // pages copied back
  std::uint64_t bytes_to_host;
  std::uint64_t pages_duplicated;       // of these, pages that the device kept too, because the host only read them
  std::uint64_t pages_between_devices;  // pages copied from one device's memory to another's
  std::uint64_t pages_brought_ahead;    // of faults that were expected
  // Of bytes_to_device, those that came while a launch that names them waited.
  std::uint64_t bytes_brought_for_launches;
  std::uint64_t evictions;              // blocks sent home because device memory was full
  std::uint64_t coherent_upgrades;      // pages made coherent
  std::uint64_t coherent_pages_shared;  // pages of coherent memory that another device was given to map
  std::uint64_t snapshot_pages;         // read-only copies of memory that cannot be mirrored (private files)
  std::uint64_t pages_made_anonymous;   // of private file mappings, which cannot be mirrored as they are
  std::uint64_t shared_file_mappings;   // mappings of files that were mapped into the device
  std::uint64_t events_unmap;           // host events applied
  std::uint64_t events_remap;
  std::uint64_t events_remove;
  std::uint64_t retries;  // operations answered EAGAIN and repeated
  std::uint64_t device_losses;
  std::uint64_t locks_left;  // robust locks of threads that have ended, marked as such in the kernel's place
};

// The same for each device, by the index under which it is attached. Kept when another takes its place.
struct DeviceStatistics {
  std::uint64_t faults;              // read from it
  std::uint64_t faults_failed;       // answered with an error
  std::uint64_t pages_in;            // pages that came from the application, or copies of them
  std::uint64_t pages_home;          // pages that went there, or copies of them
  std::uint64_t pages_from_devices;  // pages that came from other devices' memory, or copies of them
  std::uint64_t coherent_upgrades;   // pages made coherent in its memory, or in pinned memory for it
  std::uint64_t evictions;           // blocks that left because its memory was full
  std::uint64_t losses;              // how often it died
};

}  // namespace mirrorcl::mirror
