// SPDX-License-Identifier: Apache-2.0
// Memory that is coherent from birth: clSVMAlloc, and cl_mem without a host pointer. It lies in a device's memory or in
// a NUMA node of the host (memory_source.h), at one address for the application and all devices, so that no side ever
// takes a service fault on it; on a device that shares the application's page tables it is ordinary memory. Which place
// is the caller's decision. Small allocations come from slabs. Bookkeeping lies outside the allocations.
//
// Thread safety: all members.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "base/result.h"
#include "svm/memory_source.h"

namespace mirrorcl::svm {

struct Allocation {
  void* start;
  std::size_t size;  // as asked for
  Place place;
};

class Allocator {
 public:
  // `devices`: at least one; they and `host` outlive the allocator.
  static Result<std::unique_ptr<Allocator>> create(std::span<device::CpuDevice* const> devices,
                                                   hms::HostMemory& host = hms::kernel_host_memory());
  virtual ~Allocator() = default;

  // `alignment`: a power of two, at most 2 MiB; 0 means 128 (the size of cl_long16). Zero-filled for whole-page sizes.
  // kOutOfDeviceMemory when the device's memory size would be exceeded, or the node has not so much free;
  // kInvalidArgument: there is no such place; kNotSupported: the system forbids the process to choose the node.
  virtual Result<void*> allocate(std::size_t bytes, std::size_t alignment, Place place = memory_of_device(0)) = 0;
  // `pointer` as returned by allocate; returns false (and does nothing) for any other value.
  virtual bool free(void* pointer) noexcept = 0;
  // The allocation that `address` lies in, if any: interior pointers count.
  virtual std::optional<Allocation> find(const void* address) const noexcept = 0;
  // Of all places.
  virtual std::uint64_t bytes_allocated() const noexcept = 0;
  // What allocate() has left of a place, in bytes; nothing: there is no such place for this process.
  virtual std::optional<std::uint64_t> free_bytes(Place place) const = 0;
  // Calls `visit` for the runs of pages of `range` (page aligned) that hold memory of allocations; nothing for ordinary
  // memory. `visit` must not call the allocator.
  virtual void visit_resident(mirror::Range range,
                              const std::function<void(mirror::Range run, Place place)>& visit) const = 0;
};

}  // namespace mirrorcl::svm
