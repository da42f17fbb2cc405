// SPDX-License-Identifier: Apache-2.0
#include "mirror/placement.h"

#include <algorithm>
#include <string>

#include "hms/live_layout.h"
#include "hms/topology.h"

namespace mirrorcl::mirror {
namespace {

using hms::Uid;

// Builds the topology of a mirror that stands alone: host memory, the application's threads, and for each index a
// device of either kind. The figures only say what is nearer.
class OwnMachine {
 public:
  OwnMachine() {
    hms::Target memory;
    memory.name = "host";
    memory.node = 0;
    host_ = *machine_.add(memory);
    hms::Initiator threads;
    threads.name = "threads";
    threads.node = 0;
    threads_ = *machine_.add(threads);
    link({threads_}, host_, true);
  }

  PlacementSource::Device add_device(unsigned index, bool private_memory) {
    const std::string name = (private_memory ? "private" : "mappable") + std::to_string(index);
    hms::Target memory;
    memory.name = name + "-memory";
    memory.kind = hms::MemoryKind::kDevice;
    memory.device = name;
    hms::Initiator device;
    device.name = name;
    device.kind = hms::InitiatorKind::kDevice;
    device.device = name;
    const PlacementSource::Device uids{*machine_.add(device), *machine_.add(memory)};
    link({uids.initiator}, uids.target, true);
    // A device with private memory maps host memory instead.
    if (private_memory) link({uids.initiator}, host_, false);
    if (!private_memory) link({threads_}, uids.target, false);
    return uids;
  }

  const hms::Topology& topology() const { return machine_; }
  Uid threads() const { return threads_; }

 private:
  void link(std::vector<Uid> initiators, Uid target, bool near) {
    hms::Link link;
    link.initiators = std::move(initiators);
    link.targets = {target};
    link.properties.set(hms::Property::kBandwidth, {hms::mib_per_s(near ? 100 : 20), hms::Source::kAssumed});
    (void)machine_.add(link);
  }

  hms::Topology machine_;
  Uid host_ = hms::kNoUid;
  Uid threads_ = hms::kNoUid;
};

}  // namespace

Result<void> Placement::open(std::pmr::memory_resource* memory, const hms::PlacementRules& rules) {
  rules_ = rules;
  OwnMachine machine;
  std::vector<hms::PlacementRequester> requesters{{machine.threads(), true}};
  for (const bool private_memory : {false, true}) {
    for (unsigned index = 0; index < kMaxDevices; ++index) {
      own_[private_memory].devices[index] = machine.add_device(index, private_memory);
      requesters.push_back({own_[private_memory].devices[index].initiator, private_memory});
    }
  }
  auto map = hms::PlacementMap::create(machine.topology(), requesters, memory);
  if (!map) return tl::unexpected<Error>(map.error());
  own_map_ = std::move(*map);
  own_[0].map = own_[1].map = own_map_.get();
  return {};
}

bool Placement::knows(unsigned side) const noexcept {
  return side >= kMaxDevices || source_.devices[side].initiator != hms::kNoUid;
}

const PlacementSource& Placement::source_for(unsigned requester, unsigned home) const noexcept {
  if (source_.map != nullptr && knows(requester) && knows(home)) return source_;
  const unsigned device = requester < kMaxDevices ? requester : home;
  return own_[device < kMaxDevices && private_[device] ? 1 : 0];
}

void Placement::look_up(std::uint64_t address, Wish* wish) const noexcept {
  wish->policy = {};
  wish->range = {};
  if (policies_ == nullptr) return;
  // The lists are copied, so that nobody who changes policies waits for a migration.
  const hms::PolicyReader reader(*policies_);
  const auto [range, found] = reader.find(address);
  wish->range = {range.start, range.size()};
  wish->policy.preferred = found.preferred;
  wish->policy.read_mostly = found.read_mostly;
  const auto copy = [](std::span<const Uid> from, std::array<Uid, kListed>& to) {
    const std::size_t count = std::min(from.size(), kListed);
    std::copy_n(from.begin(), count, to.begin());
    return std::span<const Uid>(to.data(), count);
  };
  wish->policy.bind = copy(found.bind, wish->bind);
  wish->policy.accessed_by = copy(found.accessed_by, wish->accessed_by);
}

hms::PlacementRequest Placement::request(const Question& question) const noexcept {
  const PlacementSource& source = source_for(question.requester, question.home);
  const hms::PlacementMap& map = *source.map;
  const auto host = [&](int node) {
    const hms::Slot slot = map.host_of_node(node);
    return slot != hms::kNoSlot ? slot : map.nearest_host(hms::PlacementMap::kHostRequester);
  };
  const auto memory_of = [&](unsigned side) {
    if (side == kHostSide) return host(question.home_node);
    return map.target(source.devices[side].target);
  };
  hms::PlacementRequest request;
  request.requester = question.requester == kHostSide ? hms::PlacementMap::kHostRequester
                                                      : map.requester(source.devices[question.requester].initiator);
  request.home = memory_of(question.home);
  request.kernel_node = host(question.requester == kHostSide ? question.kernel_node : question.home_node);
  request.access = question.access;
  request.history = question.history;
  request.can_share = question.can_share;
  // A mapping of its own costs the application more than a move: only for a reason.
  const bool bounces = rules_.share_after_returns != 0 && question.history.returns >= rules_.share_after_returns;
  request.can_map_home = question.can_share && (bounces || !at_hand_.policy.empty());
  request.copyable_pages = question.copyable_pages;
  request.policy = &at_hand_.policy;
  request.map = &map;
  request.rules = rules_;
  return request;
}

hms::Decision Placement::ask(const Question& question) noexcept {
  look_up(question.address, &at_hand_);
  return hms::decide(request(question));
}

hms::Prefetch Placement::ahead(const Question& question, const hms::Decision& decision) const noexcept {
  return hms::decide_prefetch(request(question), decision);
}

hms::Uid Placement::host_memory(int node) const noexcept {
  if (source_.map == nullptr) return hms::live::kHostMemory;
  const hms::PlacementMap& map = *source_.map;
  hms::Slot found = map.host_of_node(node);
  // Where there is one node only, nobody has to ask which.
  for (hms::Slot slot = 0; node == kUnknownNode && slot < map.target_count(); ++slot) {
    if (!map.is_host(slot)) continue;
    if (found != hms::kNoSlot) return hms::live::kHostMemory;
    found = slot;
  }
  return found != hms::kNoSlot ? map.target_uid(found) : hms::live::kHostMemory;
}

std::uint64_t Placement::eviction_rank(std::uint64_t address, unsigned index,
                                       hms::EvictionCandidate candidate) const noexcept {
  const PlacementSource& source = source_for(index, kHostSide);
  const hms::Slot target = source.map->target(source.devices[index].target);
  if (policies_ == nullptr) return hms::eviction_rank(candidate, target, *source.map);
  const hms::PolicyReader reader(*policies_);
  const hms::PolicyReader::Found found = reader.find(address);
  candidate.policy = &found.policy;
  return hms::eviction_rank(candidate, target, *source.map);
}

unsigned Placement::evicted_to(std::uint64_t address, unsigned index,
                               const std::array<std::uint64_t, kMaxDevices>& free_pages) noexcept {
  look_up(address, &leaving_);
  const PlacementSource& source = source_for(index, kHostSide);
  const hms::PlacementMap& map = *source.map;
  room_.fill(0);
  std::array<hms::Slot, kMaxDevices> targets{};
  for (unsigned i = 0; i < kMaxDevices; ++i) {
    const PlacementSource& others = source_for(i, kHostSide);
    targets[i] = others.map == &map ? map.target(others.devices[i].target) : hms::kNoSlot;
    if (targets[i] < kTargets) room_[targets[i]] = free_pages[i];
  }
  const std::size_t told = std::min<std::size_t>(map.target_count(), kTargets);
  const hms::Decision decision = hms::decide_eviction(targets[index], map.requester(source.devices[index].initiator),
                                                      &leaving_.policy, map, std::span(room_).first(told));
  const auto found = std::find(targets.begin(), targets.end(), decision.target);
  if (decision.target == hms::kNoSlot || found == targets.end()) return kHostSide;
  const auto to = static_cast<unsigned>(found - targets.begin());
  return free_pages[to] != 0 ? to : kHostSide;
}

}  // namespace mirrorcl::mirror
