// SPDX-License-Identifier: Apache-2.0
// Memory for SVM allocations and buffers, in the memory that hms::decide() names (svm/allocation_places.h).
#pragma once

#include <CL/cl.h>

#include <cstddef>
#include <span>

#include "hms/topology.h"
#include "icd/api/guard.h"
#include "icd/core/runtime.h"

namespace mirrorcl::icd {

struct AllocationRequest {
  std::span<const cl_device_id> devices;  // the context's, at least one
  std::size_t bytes = 0;
  std::size_t alignment = 0;               // a power of two up to 2 MiB; 0: that of cl_long16
  bool atomics = false;                    // must work wherever it lies
  std::span<const hms::Uid> targets = {};  // that the program lists, best first; empty: it lists none
};

// Without a list it lies where decide() puts memory that the context's first device touches first; if that device's
// memory is full, likewise for the next. Until the machine has been looked at, that is the devices' own memory. Other
// processes are told of the decision.
//
// CL_MEM_OBJECT_ALLOCATION_FAILURE: no room there; CL_INVALID_PROPERTY: one of `targets` is no memory of this machine;
// CL_INVALID_MEMORY_TARGET_MIRRORCL: none of them can be used; what report() makes of other errors.
ClResult<void*> allocate(Runtime& runtime, const AllocationRequest& request);

}  // namespace mirrorcl::icd
