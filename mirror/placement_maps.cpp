// SPDX-License-Identifier: Apache-2.0
#include "mirror/placement_maps.h"

#include <vector>

namespace mirrorcl::mirror {

Result<const hms::PlacementMap*> PlacementMaps::add(const hms::Topology& topology,
                                                    std::span<const hms::PlacementRequester> devices) {
  // CPUs that differ in what they reach are all the application's; the first stands for them.
  std::vector<hms::PlacementRequester> requesters;
  for (const hms::Initiator& initiator : topology.initiators()) {
    if (requesters.empty() && initiator.known() && initiator.kind == hms::InitiatorKind::kCpu) {
      requesters.push_back({initiator.uid, true});
    }
  }
  if (requesters.empty()) return fail(ErrorCode::kInvalidArgument, "a topology without CPUs");
  requesters.insert(requesters.end(), devices.begin(), devices.end());
  Place& place = places_[1 - newest_];
  place.resource.emplace(place.memory, kSize, std::pmr::null_memory_resource());
  auto map = hms::PlacementMap::create(topology, requesters, &*place.resource);
  if (!map) return tl::unexpected<Error>(map.error());
  place.map = std::move(*map);
  newest_ = 1 - newest_;
  return place.map.get();
}

void PlacementMaps::retire_others() noexcept {
  places_[1 - newest_].map.reset();
}

}  // namespace mirrorcl::mirror
