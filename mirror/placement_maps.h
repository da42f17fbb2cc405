// SPDX-License-Identifier: Apache-2.0
// Memory for what place_by() gives the service thread: the map that it uses, and the one that takes its place.
//
// Locking: one application thread at a time.
#pragma once

#include <array>
#include <memory_resource>
#include <optional>
#include <span>

#include "base/result.h"
#include "hms/placement.h"
#include "mirror/pinned_arena.h"

namespace mirrorcl::mirror {

class PlacementMaps {
 public:
  // Its memory comes from `arena`, before the threads start.
  explicit PlacementMaps(PinnedArena& arena) {
    for (Place& place : places_) place.memory = arena.allocate(kSize, 64);
  }

  // A map of `topology` for the application's threads and `devices`. kOutOfHostMemory: it is too large.
  Result<const hms::PlacementMap*> add(const hms::Topology& topology, std::span<const hms::PlacementRequester> devices);
  // Nobody uses any map but the one added last.
  void retire_others() noexcept;

 private:
  static constexpr std::size_t kSize = std::size_t{8} << 20;  // only as much as is used exists

  struct Place {
    void* memory = nullptr;
    std::optional<std::pmr::monotonic_buffer_resource> resource;
    hms::PlacementMap::Pointer map{nullptr, {nullptr}};
  };

  std::array<Place, 2> places_;
  unsigned newest_ = 0;
};

}  // namespace mirrorcl::mirror
