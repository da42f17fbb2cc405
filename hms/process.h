// SPDX-License-Identifier: Apache-2.0
// This process's own binder: what the C functions of hbind.h work on, and what the mirror joins its devices to.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "hms/api.h"
#include "hms/binder.h"
#include "hms/policy.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// Made at the first call, with the topology of this machine (load.h); lives as long as the process does. Some tens of
// milliseconds then, nothing later. What load() answers if the machine cannot be looked at.
HMS_API Result<Binder*> process_binder();

// Has `join` called with the process's binder, once, before anybody else gets it: for who has devices to add to it. If
// there is a binder already, at the next process_binder(). `join` may call process_binder() itself.
HMS_API void on_process_binder(void (*join)(Binder& binder));

// Where the process's policy table lies, once process_binder() has been called: memory of its own that must not
// migrate.
HMS_API AddressRange process_policy_memory() noexcept;

// A device of this process, as the topology shows it.
struct ProcessDevice {
  std::string name;                   // "mirrorcl:0"
  std::uint64_t memory_size = 0;      // bytes; 0: it has no memory of its own and uses the host's
  int node = -1;                      // the NUMA node that its memory lies in or it is nearest to; -1: not known
  bool memory_cpu_mappable = false;   // the CPUs reach its memory
  bool memory_is_host_memory = true;  // of the node `node`: the figures are those of that node
  bool native_atomics = false;        // across the device and the CPUs
};

struct ProcessDeviceUids {
  Uid initiator = kNoUid;
  Uid target = kNoUid;  // kNoUid: no memory of its own
};

// `topology` with the device in it: an initiator, its memory if it has any, and links with the figures of the node's
// CPUs to that node. kInvalidArgument if the name is taken or the topology has no node for it.
HMS_API Result<Topology> with_device(const Topology& topology, const ProcessDevice& device, ProcessDeviceUids* uids);

}  // namespace mirrorcl::hms
