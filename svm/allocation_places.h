// SPDX-License-Identifier: Apache-2.0
// In which memory an allocation is to lie: hms::decide()'s answer to a first touch by the device that it is for, with
// what the program asks for as a binding. Such memory is mapped by all devices of the process wherever it lies, so that
// each device's memory is in reach of all.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "hms/placement.h"
#include "svm/memory_source.h"

namespace mirrorcl::svm {

// Immutable.
class AllocationPlaces {
 public:
  struct Device {
    hms::Uid initiator = hms::kNoUid;
    hms::Uid target = hms::kNoUid;  // its memory; kNoUid: it has none of its own
  };
  // `devices`: the allocator's, in its order, all in `topology`. kInvalidArgument: one is not; kOutOfHostMemory.
  static Result<std::unique_ptr<AllocationPlaces>> create(const hms::Topology& topology,
                                                          std::span<const Device> devices);

  struct Question {
    std::uint32_t device = 0;  // that it is for
    std::uint64_t bytes = 0;
    std::span<const hms::Uid> targets{};  // that the program lists, best first; empty: it lists none
    hms::Access access = hms::Access::kWrite;
  };
  enum class Outcome : std::uint8_t {
    kPlaced,
    kFull,      // the memories that may be taken have no room. Without a list: the device's own
    kUnusable,  // none of those listed can be allocated in, or serves the device
    kUnknown,   // one of those listed is no memory of this machine
  };
  struct Answer {
    Outcome outcome = Outcome::kUnusable;
    Place place{};  // the rest only of kPlaced
    hms::Uid target = hms::kNoUid;
    hms::Reason reason = hms::Reason::kFirstTouch;
  };
  // `free_bytes`: Allocator::free_bytes().
  using FreeBytes = std::function<std::optional<std::uint64_t>(Place)>;
  Answer ask(const Question& question, const FreeBytes& free_bytes) const;

  // kNoUid: none.
  hms::Uid target_of(Place place) const noexcept;
  // Nothing: allocations cannot lie there.
  std::optional<Place> place_of(hms::Uid target) const noexcept;

 private:
  struct Memory {
    hms::Uid target;
    std::optional<Place> place;
  };

  AllocationPlaces() : map_(nullptr, {nullptr}) {}
  Answer answer(const Question& question, const hms::Policy& policy, std::span<const std::uint64_t> room) const;
  bool lies_behind_own(const Question& question, hms::Slot target) const noexcept;

  std::vector<Device> devices_;
  std::vector<Memory> memories_;  // every one of the topology
  hms::PlacementMap::Pointer map_;
};

}  // namespace mirrorcl::svm
