// SPDX-License-Identifier: Apache-2.0
#include "icd/core/allocation.h"

#include <string>

#include "CL/cl_ext_mirrorcl.h"
#include "base/log.h"
#include "icd/core/device.h"
#include "icd/core/memory_placement.h"

namespace mirrorcl::icd {
namespace {

using svm::AllocationPlaces;

class Allocation {
 public:
  Allocation(Runtime& runtime, const AllocationRequest& request) : runtime_(runtime), request_(request) {}

  ClResult<void*> make() {
    const MemoryPlacement* placement = MemoryPlacement::if_joined();
    if (placement == nullptr && !request_.targets.empty()) {
      const auto now = MemoryPlacement::get();
      if (!now) return ClError{report(now.error())};
      placement = *now;
    }
    return placement == nullptr ? in_own_memory() : where_decided(placement->allocation_places());
  }

 private:
  // Of the context's devices the first that has room.
  ClResult<void*> in_own_memory() {
    for (cl_device_id device : request_.devices) {
      const AllocationPlaces::Answer answer{AllocationPlaces::Outcome::kPlaced, svm::memory_of_device(device->index())};
      const auto memory = take(device->index(), answer);
      if (memory || memory.error().code != ErrorCode::kOutOfDeviceMemory) return told(memory);
    }
    return full();
  }

  ClResult<void*> where_decided(const AllocationPlaces& places) {
    const auto access = request_.atomics ? hms::Access::kAtomic : hms::Access::kWrite;
    const auto free_bytes = [&](svm::Place place) { return runtime_.allocator().free_bytes(place); };
    for (cl_device_id device : request_.devices) {
      const auto answer = places.ask({device->index(), request_.bytes, request_.targets, access}, free_bytes);
      switch (answer.outcome) {
        case AllocationPlaces::Outcome::kPlaced:
          return told(take(device->index(), answer));
        case AllocationPlaces::Outcome::kUnknown:
          log_error(
              "one of the memory targets listed is no memory of this machine: clGetMemoryTargetsMIRRORCL and "
              "'hms show' tell which there are");
          return ClError{CL_INVALID_PROPERTY};
        case AllocationPlaces::Outcome::kFull:
        case AllocationPlaces::Outcome::kUnusable:
          usable_ = usable_ || answer.outcome == AllocationPlaces::Outcome::kFull;
          break;  // another device may reach more, or have room
      }
    }
    if (usable_) return full();
    log_error("none of the memory targets listed can be used by the devices of the context");
    return ClError{CL_INVALID_MEMORY_TARGET_MIRRORCL};
  }

  Result<void*> take(std::uint32_t device, const AllocationPlaces::Answer& answer) {
    auto memory = runtime_.allocator().allocate(request_.bytes, request_.alignment, answer.place);
    if (memory && runtime_.mirror() != nullptr) note(device, answer, reinterpret_cast<std::uint64_t>(*memory));
    return memory;
  }

  void note(std::uint32_t device, const AllocationPlaces::Answer& answer, std::uint64_t start) {
    const std::uint64_t first = start & ~(window::kPageSize - 1);
    const std::uint64_t end = (start + request_.bytes + window::kPageSize - 1) & ~(window::kPageSize - 1);
    mirror::Mirror::AllocationNote note{{first, end - first}, &runtime_.device(device)};
    note.target = answer.target;
    note.reason = answer.reason;
    note.access = request_.atomics ? hms::Access::kAtomic : hms::Access::kWrite;
    note.policy.bind = request_.targets;
    runtime_.mirror()->note_allocation(note);
  }

  static ClResult<void*> told(const Result<void*>& memory) {
    if (!memory) return ClError{report(memory.error())};
    return *memory;
  }

  ClResult<void*> full() const {
    return ClError{report({ErrorCode::kOutOfDeviceMemory, std::to_string(request_.bytes) +
                                                              " bytes fit in none of the memories that they may lie "
                                                              "in (MIRRORCL_DEVICE_MEMORY sets the devices' size)"})};
  }

  Runtime& runtime_;
  const AllocationRequest& request_;
  bool usable_ = false;
};

}  // namespace

ClResult<void*> allocate(Runtime& runtime, const AllocationRequest& request) {
  return Allocation(runtime, request).make();
}

}  // namespace mirrorcl::icd
