// SPDX-License-Identifier: Apache-2.0
// What a running work-group may read about its dispatch beyond PoCL's context: true sizes and offsets, also in the
// last, smaller groups of a non-uniform grid, where PoCL's context holds values that make only get_global_id come out
// right (local_size = this group's size, global_offset shifted so that group * local_size + global_offset is the
// group's first id).
//
// Each compute unit keeps one at %fs:kWorkGroupViewOffset; the built-in functions that read it are in
// compiler/service/prefix.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mirrorcl::device {

inline constexpr std::size_t kWorkGroupViewOffset = 0x200;

struct WorkGroupView {
  std::uint64_t global_size[3];          // 0x200  get_global_size
  std::uint64_t global_offset[3];        // 0x218  get_global_offset
  std::uint64_t enqueued_local_size[3];  // 0x230  get_enqueued_local_size
  std::uint64_t local_size[3];           // 0x248  get_local_size of this group
  std::uint64_t num_groups[3];           // 0x260  get_num_groups
  std::uint64_t group[3];                // 0x278  get_group_id
  std::uint64_t work_dim;                // 0x290  get_work_dim
};
static_assert(sizeof(WorkGroupView) == 0x98);

}  // namespace mirrorcl::device
