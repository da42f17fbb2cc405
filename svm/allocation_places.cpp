// SPDX-License-Identifier: Apache-2.0
#include "svm/allocation_places.h"

#include <algorithm>
#include <memory_resource>

#include "device/window.h"
#include "hms/query.h"

namespace mirrorcl::svm {
namespace {

// `topology` with a way from each device to every other one's memory, as good as the owner's: for memory that is shared
// from birth there is one.
Result<hms::Topology> with_shared_memory(const hms::Topology& topology,
                                         std::span<const AllocationPlaces::Device> devices) {
  hms::Topology result = topology;
  for (const AllocationPlaces::Device& owner : devices) {
    if (owner.target == hms::kNoUid || devices.size() < 2) continue;
    hms::Link link{};
    link.name = "shared-" + std::to_string(owner.target);
    link.targets = {owner.target};
    for (const AllocationPlaces::Device& other : devices) {
      if (other.initiator != owner.initiator) link.initiators.push_back(other.initiator);
    }
    if (const auto own = hms::reach(topology, owner.initiator, owner.target)) {
      if (own->bandwidth) link.properties.set(hms::Property::kBandwidth, *own->bandwidth);
      if (own->latency) link.properties.set(hms::Property::kLatency, *own->latency);
      link.coherent = own->coherent;
      link.atomic = own->atomic;
    }
    if (auto added = result.add(link); !added) return tl::unexpected<Error>(added.error());
  }
  return result;
}

}  // namespace

Result<std::unique_ptr<AllocationPlaces>> AllocationPlaces::create(const hms::Topology& topology,
                                                                   std::span<const Device> devices) {
  const auto shared = with_shared_memory(topology, devices);
  if (!shared) return tl::unexpected<Error>(shared.error());
  std::unique_ptr<AllocationPlaces> places(new AllocationPlaces);
  places->devices_.assign(devices.begin(), devices.end());
  for (const hms::Target& target : topology.targets()) {
    std::optional<Place> place;
    if (target.known() && target.online && target.is_host()) place = memory_of_node(target.node);
    for (std::uint32_t i = 0; i < devices.size(); ++i) {
      if (devices[i].target == target.uid) place = memory_of_device(i);
    }
    places->memories_.push_back({target.uid, place});
  }
  // decide() wants the application's threads first; nobody asks on their behalf.
  std::vector<hms::PlacementRequester> requesters;
  for (const hms::Initiator& initiator : topology.initiators()) {
    if (requesters.empty() && initiator.known() && initiator.kind == hms::InitiatorKind::kCpu) {
      requesters.push_back({initiator.uid, true});
    }
  }
  for (const Device& device : devices) requesters.push_back({device.initiator, true});
  auto map = hms::PlacementMap::create(*shared, requesters, std::pmr::new_delete_resource());
  if (!map) return tl::unexpected<Error>(map.error());
  places->map_ = std::move(*map);
  return places;
}

std::optional<Place> AllocationPlaces::place_of(hms::Uid target) const noexcept {
  const auto memory = std::ranges::find(memories_, target, &Memory::target);
  return memory == memories_.end() ? std::nullopt : memory->place;
}

hms::Uid AllocationPlaces::target_of(Place place) const noexcept {
  const auto memory = std::ranges::find(memories_, std::optional(place), &Memory::place);
  return memory == memories_.end() ? hms::kNoUid : memory->target;
}

AllocationPlaces::Answer AllocationPlaces::ask(const Question& question, const FreeBytes& free_bytes) const {
  const auto has_room = [&](Place place) { return free_bytes(place).value_or(0) >= question.bytes; };
  // decide() takes whole pages; what does not fit as a whole has no room. Of nodes it believes that they always have.
  std::vector<std::uint64_t> room(map_->target_count(), 0);
  for (std::uint32_t i = 0; i < devices_.size(); ++i) {
    const hms::Slot slot = map_->target(devices_[i].target);
    const bool wanted = !question.targets.empty() || i == question.device;
    if (slot != hms::kNoSlot && wanted && has_room(memory_of_device(i))) {
      room[slot] = std::max<std::uint64_t>(1, (question.bytes + window::kPageSize - 1) / window::kPageSize);
    }
  }
  hms::Policy policy;
  if (question.targets.empty()) {
    Answer best = answer(question, policy, room);
    if (devices_[question.device].target == hms::kNoUid) {
      best.place = memory_of_device(question.device);  // ordinary memory, which the kernel places
      return best;
    }
    const bool full =
        best.outcome == Outcome::kPlaced && best.place.kind == Place::Kind::kNode && !has_room(best.place);
    if (!full) return best;
    policy.preferred = devices_[question.device].target;
    return answer(question, policy, room);
  }
  std::vector<hms::Uid> listed;
  bool some_full = false;
  for (const hms::Uid uid : question.targets) {
    const auto memory = std::ranges::find(memories_, uid, &Memory::target);
    if (memory == memories_.end()) return {.outcome = Outcome::kUnknown};
    if (!memory->place || !free_bytes(*memory->place)) continue;
    if (memory->place->kind == Place::Kind::kNode && !has_room(*memory->place)) {
      some_full = true;
    } else {
      listed.push_back(uid);
    }
  }
  policy.bind = listed;
  const Answer best = listed.empty() ? Answer{} : answer(question, policy, room);
  return best.outcome == Outcome::kUnusable && some_full ? Answer{.outcome = Outcome::kFull} : best;
}

// What decide() says, if it is one of the memories that the program lists.
AllocationPlaces::Answer AllocationPlaces::answer(const Question& question, const hms::Policy& policy,
                                                  std::span<const std::uint64_t> room) const {
  hms::PlacementRequest request;
  request.requester = map_->requester(devices_[question.device].initiator);
  request.access = question.access;
  request.policy = &policy;
  request.map = map_.get();
  request.room = room;
  const hms::Decision decision = hms::decide(request);
  if (decision.target == hms::kNoSlot) return {};
  const hms::Uid target = map_->target_uid(decision.target);
  if (!policy.bind.empty() && std::ranges::find(policy.bind, target) == policy.bind.end()) return {};
  if (decision.evict) return {.outcome = Outcome::kFull};
  if (policy.bind.empty() && lies_behind_own(question, decision.target)) return {.outcome = Outcome::kFull};
  const std::optional<Place> place = place_of(target);
  if (!place) return {};
  return {Outcome::kPlaced, *place, target, decision.reason};
}

// The device's own memory would be better, so it is full.
bool AllocationPlaces::lies_behind_own(const Question& question, hms::Slot target) const noexcept {
  const Device& device = devices_[question.device];
  for (const hms::Slot better : map_->best(map_->requester(device.initiator))) {
    if (better == target) return false;
    if (map_->target_uid(better) == device.target) return true;
  }
  return false;
}

}  // namespace mirrorcl::svm
