// SPDX-License-Identifier: Apache-2.0
// Executes hbind() calls: checks all of a call, then changes policies in the table, and has pages moved by the kernel
// (host targets) or by the mirror (device targets). The C functions of hbind.h call the process's one; a program may
// have others, say with a made-up machine.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "hms/device_memory.h"
#include "hms/hbind.h"
#include "hms/host_memory.h"
#include "hms/policy.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

struct HbindCommand {
  std::uint32_t id;                 // HBIND_CMD_...
  std::span<std::uint32_t> dwords;  // in the caller's memory
};

// A call that has been found valid.
struct HbindCall {
  AddressRange range;           // of pages
  std::span<const Uid> listed;  // the targets as the caller wrote them
  std::vector<Uid> usable;      // those of them that this process can use, in order, without repeats
  std::vector<HbindCommand> commands;
};

class HMS_API Binder {
 public:
  // `policies` and `host` outlive the binder.
  Binder(std::shared_ptr<const Topology> topology, PolicyTable& policies, HostMemory& host);

  // The topology that uids refer to from now on.
  void set_topology(std::shared_ptr<const Topology> topology);
  std::shared_ptr<const Topology> topology() const;
  PolicyTable& policies() noexcept { return policies_; }

  // `device` is asked to move pages to the target that it is, until it is removed. Removing waits for calls that use
  // it.
  void add_device(DeviceMemory& device);
  void remove_device(DeviceMemory& device);

  // For pthread_atfork(). A fork waits for calls that run; the child has no devices and an empty table.
  void before_fork() MIRRORCL_ACQUIRE(configuration_mutex_);
  void after_fork_in_parent() MIRRORCL_RELEASE(configuration_mutex_);
  void after_fork_in_child() MIRRORCL_NO_THREAD_ANALYSIS;  // there is one thread

  // 0 or -errno, as hbind.h says. Locking: any thread.
  int hbind(const hbind_params* params);

  // The target in which each page of `range` (page aligned) lives; kNoUid: nobody has touched it, or its memory is not
  // in the topology. 0 or -errno.
  int residency(AddressRange range, std::span<Uid> places) const;

 private:
  // Everything that a call needs to see unchanged while it runs.
  struct View {
    const Topology& topology;
    std::span<DeviceMemory* const> devices;

    DeviceMemory* device(Uid target) const noexcept;
    int node(Uid target) const noexcept;  // -1: not a NUMA node
  };
  // What a range's policy is for the kernel.
  struct HostNodes {
    HostPolicy::Mode mode;
    std::vector<int> nodes;
  };

  // Whether a change of policy concerns the kernel's own allocations.
  enum class ForKernel : bool { kNo, kYes };

  int validate(const View& view, const hbind_params* params, HbindCall* call) const;
  int validate_command(const View& view, const HbindCall& call, const HbindCommand& command) const;
  bool is_usable(const View& view, Uid target) const noexcept;

  int execute(const View& view, const HbindCall& call, const HbindCommand& command);
  template <typename Change>
  int change_policy(const View& view, AddressRange range, ForKernel for_kernel, const Change& change);
  int tell_kernel(const View& view, AddressRange range, bool* changed);
  static HostNodes host_nodes(const View& view, const Policy& policy);

  std::uint64_t migrate(const View& view, const HbindCall& call, Untouched untouched);
  bool move_run(const View& view, AddressRange run, std::span<Uid> places, Uid target, Untouched untouched);
  int places_of(const View& view, AddressRange range, std::span<Uid> places) const;
  int query_residency(const View& view, const HbindCall& call, std::span<std::uint32_t> counts) const;

  PolicyTable& policies_;
  HostMemory& host_;
  mutable SharedMutex configuration_mutex_;  // held shared by every call
  std::shared_ptr<const Topology> topology_ MIRRORCL_GUARDED_BY(configuration_mutex_);
  std::vector<DeviceMemory*> devices_ MIRRORCL_GUARDED_BY(configuration_mutex_);
  Mutex policy_mutex_;  // a change in the table and the kernel's share of it are one
};

}  // namespace mirrorcl::hms
