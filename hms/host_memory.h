// SPDX-License-Identifier: Apache-2.0
// The host's memory as hbind() sees it: NUMA nodes, to which the kernel allocates and moves pages. An interface, so
// that tests can run on a machine of many nodes that does not exist; kernel_host_memory() is the real one.
#pragma once

#include <cstdint>
#include <span>

#include "hms/api.h"
#include "hms/policy.h"

namespace mirrorcl::hms {

struct HostPolicy {
  enum class Mode : std::uint8_t {
    kDefault,  // the process's own policy
    kBind,     // `nodes` only
    kPrefer,   // the first of `nodes` as long as it has room
  };
  Mode mode = Mode::kDefault;
  std::span<const int> nodes;
};

// Locking: any thread. Results are 0 or -errno.
class HostMemory {
 public:
  static constexpr std::uint64_t kPageSize = 4096;

  virtual ~HostMemory() = default;

  // No part of `range` is without a mapping.
  virtual bool is_mapped(AddressRange range) const noexcept = 0;
  // This process may allocate memory of the node (cpusets and containers can forbid it).
  virtual bool may_use(int node) const noexcept = 0;
  // Bytes that can be allocated on the node without swapping; all ones if nobody tells.
  virtual std::uint64_t free_bytes(int node) const noexcept = 0;
  // Where pages of `range` are allocated from now on.
  virtual int set_policy(AddressRange range, const HostPolicy& policy) noexcept = 0;
  // Writes the node of each page from `start` on, or -1 where there is no page, to `nodes`.
  virtual int nodes_of(std::uint64_t start, std::span<int> nodes) const noexcept = 0;
  // Moves the pages of `range` to `node`, as many as can be moved; nodes_of() tells which have.
  virtual int move(AddressRange range, int node) noexcept = 0;
};

HMS_API HostMemory& kernel_host_memory() noexcept;

// The policy of this process, and of a program that it executes. 0 or -errno.
HMS_API int set_process_policy(const HostPolicy& policy) noexcept;
// Moves what process `pid` has on the nodes `from` to the node `to`. The number of pages that could not be moved, or
// -errno.
HMS_API long move_process(int pid, std::span<const int> from, int to) noexcept;

}  // namespace mirrorcl::hms
