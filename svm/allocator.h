// SPDX-License-Identifier: Apache-2.0
// Memory that is coherent from birth: clSVMAlloc, and cl_mem without a host pointer. Ranges of device memory mapped
// into the application at the same address, so that neither side ever takes a service fault on them; on a device that
// shares the application's page tables, ordinary memory. With several devices it lies in the first one's memory, and
// the others map it from there. Small allocations come from slabs. Bookkeeping lies outside the allocations.
//
// Thread safety: all members.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/result.h"

namespace mirrorcl::device {
class CpuDevice;
}

namespace mirrorcl::svm {

struct Allocation {
  void* start;
  std::size_t size;  // as asked for
};

class Allocator {
 public:
  // `devices`: at least one; they outlive the allocator.
  static Result<std::unique_ptr<Allocator>> create(std::span<device::CpuDevice* const> devices);
  virtual ~Allocator() = default;

  // `alignment`: a power of two, at most 2 MiB; 0 means 128 (the size of cl_long16). Zero-filled for whole-page sizes.
  // kOutOfDeviceMemory when the first device's memory size would be exceeded.
  virtual Result<void*> allocate(std::size_t bytes, std::size_t alignment) = 0;
  // `pointer` as returned by allocate; returns false (and does nothing) for any other value.
  virtual bool free(void* pointer) noexcept = 0;
  // The allocation that `address` lies in, if any: interior pointers count.
  virtual std::optional<Allocation> find(const void* address) const noexcept = 0;
  virtual std::uint64_t bytes_allocated() const noexcept = 0;
};

}  // namespace mirrorcl::svm
