// SPDX-License-Identifier: Apache-2.0
// The property lists of allocations (cl_mirrorcl_hms): names with their values, ended by 0.
#pragma once

#include <CL/cl.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "CL/cl_ext_mirrorcl.h"
#include "hms/hbind.h"
#include "hms/topology.h"
#include "icd/api/guard.h"

namespace mirrorcl::icd {

struct AllocationProperties {
  std::vector<hms::Uid> targets;  // as listed
  std::optional<std::size_t> alignment;
  std::vector<cl_properties> given;  // with the terminating zero; empty if there was no list
};

// `targets` and `alignment` are the names that may appear, each once at most. CL_INVALID_PROPERTY for any other, and
// for a list of targets that is empty, too long, or holds what cannot be a uid. `properties` may be null.
inline ClResult<AllocationProperties> read_properties(const cl_properties* properties, cl_properties targets,
                                                      std::optional<cl_properties> alignment) {
  AllocationProperties result;
  if (properties == nullptr) return result;
  const cl_properties* next = properties;
  while (*next != 0) {
    const cl_properties name = *next++;
    if (name == targets) {
      MIRRORCL_GUARD(result.targets.empty(), CL_INVALID_PROPERTY);
      for (; *next != CL_MEMORY_TARGETS_END_MIRRORCL; ++next) {
        MIRRORCL_GUARD(*next < hms::kNoUid && result.targets.size() < HBIND_MAX_TARGETS, CL_INVALID_PROPERTY);
        result.targets.push_back(static_cast<hms::Uid>(*next));
      }
      ++next;
      MIRRORCL_GUARD(!result.targets.empty(), CL_INVALID_PROPERTY);
    } else {
      MIRRORCL_GUARD(alignment && name == *alignment && !result.alignment, CL_INVALID_PROPERTY);
      result.alignment = static_cast<std::size_t>(*next++);
    }
  }
  result.given.assign(properties, next + 1);
  return result;
}

}  // namespace mirrorcl::icd
