// SPDX-License-Identifier: Apache-2.0
// The shape of a kernel launch: from what clEnqueueNDRangeKernel is given to what a dispatch packet holds.
#pragma once

#include <CL/cl.h>

#include <cstddef>
#include <cstdint>

#include "device/packet.h"

namespace mirrorcl::icd {

// As in device::Packet. num_groups of 0 in a dimension: nothing to run.
struct Grid {
  std::uint64_t num_groups[3]{};
  std::uint64_t global_offset[3]{};
  std::uint64_t local_size[3]{1, 1, 1};
  std::uint64_t last_local_size[3]{1, 1, 1};
  std::uint32_t work_dim = 1;

  bool empty() const noexcept { return num_groups[0] == 0 || num_groups[1] == 0 || num_groups[2] == 0; }
};

// What the local size must comply with.
struct LocalSizeRules {
  const std::uint64_t* required = nullptr;  // reqd_work_group_size: three values, or zeros
  std::uint64_t max_work_item_size = 1;     // of one dimension
  std::uint64_t max_work_group_size = 1;    // work-items of all three
  std::uint32_t compute_units = 1;
  bool uniform = true;  // every work-group must have the local size (OpenCL C before 2.0, or the build option)
};

// OpenCL 3.0, 5.10: checks the sizes and chooses the local size if `local` is null. CL_INVALID_WORK_DIMENSION,
// CL_INVALID_GLOBAL_OFFSET, CL_INVALID_WORK_GROUP_SIZE, CL_INVALID_WORK_ITEM_SIZE. A null or zero `global` gives an
// empty grid.
cl_int make_grid(cl_uint work_dim, const std::size_t* offset, const std::size_t* global, const std::size_t* local,
                 const LocalSizeRules& rules, Grid* grid) noexcept;

}  // namespace mirrorcl::icd
