// SPDX-License-Identifier: Apache-2.0
// Where arenas get their memory: from a device's memory, or from a NUMA node of the host. Either is a sparse file whose
// offset is the address, mapped by the application and by every device at that address; on a device that shares the
// application's page tables, ordinary memory.
//
// Locking: one thread at a time.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"
#include "hms/host_memory.h"
#include "mirror/device/operations.h"

namespace mirrorcl::device {
class CpuDevice;
}

namespace mirrorcl::svm {

// A memory that allocations can lie in.
struct Place {
  enum class Kind : std::uint8_t { kDevice, kNode };
  Kind kind = Kind::kDevice;
  int index = 0;  // among the allocator's devices; or the NUMA node
  constexpr auto operator<=>(const Place&) const = default;
};
constexpr Place memory_of_device(std::uint32_t index) {
  return {Place::Kind::kDevice, static_cast<int>(index)};
}
constexpr Place memory_of_node(int node) {
  return {Place::Kind::kNode, node};
}

class MemorySource {
 public:
  // `devices` map what it gives. kInvalidArgument: there is no such place; kNotSupported: the application cannot map
  // that device's memory.
  static Result<std::unique_ptr<MemorySource>> open(Place place, std::span<device::CpuDevice* const> devices,
                                                    hms::HostMemory& host);

  // Bytes that there is room for when allocations have taken `taken`: of the device's memory size, or of what the node
  // has free, where allocations that nobody has touched are still to come.
  std::uint64_t free_bytes(std::uint64_t taken) const noexcept;

  // Backs a reserved range of addresses with memory that the application and all devices see, or does nothing.
  Result<void> back(mirror::Range range);
  // To be called for each allocation: what is touched in `range` from now on comes from the node, whatever memory
  // policy somebody has left there. kNotSupported: the system forbids the process to have memory policies.
  Result<void> bind(mirror::Range range);
  // Frees the memory on all sides; what is touched next is zero. False, with errno, on failure.
  bool discard(mirror::Range range) noexcept;
  // Calls `visit` for the runs of pages of `range` that have memory. Nothing for ordinary memory, of which the
  // application's own page tables tell.
  void visit_resident(mirror::Range range, const std::function<void(mirror::Range)>& visit) const;

 private:
  MemorySource(Place place, std::span<device::CpuDevice* const> devices, hms::HostMemory& host)
      : place_(place), devices_(devices), host_(host) {}
  // With all devices or none.
  Result<void> share(mirror::Range range);

  const Place place_;
  const std::span<device::CpuDevice* const> devices_;
  hms::HostMemory& host_;
  int file_ = -1;       // -1: plain memory
  UniqueFd node_file_;  // of a node
};

}  // namespace mirrorcl::svm
