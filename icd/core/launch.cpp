// SPDX-License-Identifier: Apache-2.0
#include "icd/core/launch.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace mirrorcl::icd {
namespace {

// A work-group is one call of a loop over its work-items, vectorised along the first dimension: from this size on the
// call costs little, and a multiple of kVectorItems fills the vectors.
constexpr std::uint64_t kGoodGroup = 64;
constexpr std::uint64_t kLargestChosenGroup = 1024;
constexpr std::uint64_t kVectorItems = 16;
// Work-groups per unit that even out kernels whose groups take different times.
constexpr std::uint64_t kGroupsPerUnit = 4;

// The largest divisor of `size` up to `limit`, a multiple of kVectorItems if there is one.
std::uint64_t best_divisor(std::uint64_t size, std::uint64_t limit) noexcept {
  limit = std::min(size, limit);
  for (std::uint64_t candidate = limit / kVectorItems * kVectorItems; candidate >= kVectorItems;
       candidate -= kVectorItems) {
    if (size % candidate == 0) return candidate;
  }
  for (std::uint64_t candidate = limit; candidate > 1; --candidate) {
    if (size % candidate == 0) return candidate;
  }
  return 1;
}

void choose_local_size(const std::uint64_t (&global)[3], const LocalSizeRules& rules, std::uint64_t (&local)[3]) {
  const double total = static_cast<double>(global[0]) * static_cast<double>(global[1]) * static_cast<double>(global[2]);
  const double share = total / static_cast<double>(rules.compute_units * kGroupsPerUnit);
  const double bounded = std::clamp(share, static_cast<double>(kGoodGroup), static_cast<double>(kLargestChosenGroup));
  std::uint64_t budget = std::min(static_cast<std::uint64_t>(bounded), rules.max_work_group_size);
  for (int d = 0; d < 3; ++d) {
    local[d] = best_divisor(global[d], budget);
    // A size without good divisors (a large prime, say) would make tiny work-groups: let the last one be smaller
    // instead.
    if (d == 0 && !rules.uniform && local[0] < kVectorItems && global[0] > kGoodGroup) {
      local[0] = std::min(std::max(kVectorItems, budget / kVectorItems * kVectorItems), budget);
    }
    budget = std::max<std::uint64_t>(budget / local[d], 1);
  }
}

}  // namespace

cl_int make_grid(cl_uint work_dim, const std::size_t* offset, const std::size_t* global, const std::size_t* local,
                 const LocalSizeRules& rules, Grid* grid) noexcept {
  if (work_dim < 1 || work_dim > 3) return CL_INVALID_WORK_DIMENSION;
  std::uint64_t global_size[3]{1, 1, 1};
  bool empty = global == nullptr;
  for (cl_uint d = 0; d < work_dim && global != nullptr; ++d) {
    global_size[d] = global[d];
    empty |= global[d] == 0;
    if (offset != nullptr && offset[d] > std::numeric_limits<std::size_t>::max() - global[d]) {
      return CL_INVALID_GLOBAL_OFFSET;
    }
  }
  const bool has_required = rules.required != nullptr && rules.required[0] != 0;
  std::uint64_t local_size[3]{1, 1, 1};
  if (local != nullptr) {
    std::uint64_t items = 1;
    for (cl_uint d = 0; d < work_dim; ++d) {
      if (local[d] == 0) return CL_INVALID_WORK_GROUP_SIZE;
      if (local[d] > rules.max_work_item_size) return CL_INVALID_WORK_ITEM_SIZE;
      local_size[d] = local[d];
      items *= local[d];
      if (items > rules.max_work_group_size) return CL_INVALID_WORK_GROUP_SIZE;
    }
    if (has_required && !std::equal(local_size, local_size + 3, rules.required)) return CL_INVALID_WORK_GROUP_SIZE;
  } else if (has_required) {
    std::copy_n(rules.required, 3, local_size);
    for (cl_uint d = work_dim; d < 3; ++d) {
      if (local_size[d] != 1) return CL_INVALID_WORK_GROUP_SIZE;
    }
  } else if (!empty) {
    choose_local_size(global_size, rules, local_size);
  }
  *grid = Grid{};
  grid->work_dim = work_dim;
  for (cl_uint d = 0; d < 3; ++d) {
    const std::uint64_t rest = global_size[d] % local_size[d];
    if (rest != 0 && rules.uniform && !empty) return CL_INVALID_WORK_GROUP_SIZE;
    grid->num_groups[d] = empty ? 0 : global_size[d] / local_size[d] + (rest != 0 ? 1 : 0);
    grid->global_offset[d] = offset != nullptr && d < work_dim ? offset[d] : 0;
    grid->local_size[d] = local_size[d];
    grid->last_local_size[d] = rest != 0 ? rest : local_size[d];
  }
  return CL_SUCCESS;
}

}  // namespace mirrorcl::icd
