// SPDX-License-Identifier: Apache-2.0
#include "hms/placement.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <new>

#include "hms/query.h"

namespace mirrorcl::hms {

// --- the map

namespace {

constexpr std::int32_t kMaxNode = 1023;  // CONFIG_NODES_SHIFT is at most 10

}  // namespace

PlacementMap::PlacementMap(std::pmr::memory_resource* memory)
    : targets_(memory),
      nodes_(memory),
      requesters_(memory),
      slots_(memory),
      kinds_(memory),
      paths_(memory),
      serving_(memory),
      order_(memory),
      reached_(memory),
      nearest_host_(memory),
      shared_order_(memory),
      shared_(memory) {}

void PlacementMap::Deleter::operator()(PlacementMap* map) const noexcept {
  map->~PlacementMap();
  memory->deallocate(map, sizeof(PlacementMap), alignof(PlacementMap));
}

Result<PlacementMap::Pointer> PlacementMap::create(const Topology& topology,
                                                   std::span<const PlacementRequester> requesters,
                                                   std::pmr::memory_resource* memory) {
  try {
    Pointer map(new (memory->allocate(sizeof(PlacementMap), alignof(PlacementMap))) PlacementMap(memory),
                Deleter{memory});
    if (auto built = map->build(topology, requesters); !built) return tl::unexpected<Error>(built.error());
    return map;
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::kOutOfHostMemory, "no memory for the table of memory paths");
  }
}

Result<void> PlacementMap::build(const Topology& topology, std::span<const PlacementRequester> requesters) {
  if (requesters.size() > kNoSlot) return fail(ErrorCode::kNotSupported, "more than 65,535 requesters");
  slots_.assign(topology.next_uid(), kNoSlot);
  kinds_.assign(topology.next_uid(), 0);
  for (const Target& target : topology.targets()) {
    if (!target.known() || !target.online) continue;
    if (targets_.size() == kNoSlot) return fail(ErrorCode::kNotSupported, "more than 65,535 memories");
    slots_[target.uid] = static_cast<Slot>(targets_.size());
    targets_.push_back({target.uid, target.is_host()});
    if (!target.is_host() || target.node < 0 || target.node > kMaxNode) continue;
    const auto node = static_cast<std::size_t>(target.node);
    if (node >= nodes_.size()) nodes_.resize(node + 1, kNoSlot);
    nodes_[node] = slots_[target.uid];
  }
  std::size_t cells = requesters.size() * targets_.size();
  paths_.resize(cells);
  serving_.resize(2 * requesters.size() * slots_.size(), kNoSlot);
  order_.resize(cells, kNoSlot);
  shared_order_.resize(cells, kNoSlot);
  for (const PlacementRequester& one : requesters) {
    if (auto added = add_requester(topology, one); !added) return added;
  }
  for (Slot requester = 0; requester < requesters_.size(); ++requester) order_shared(requester);
  return {};
}

Result<void> PlacementMap::add_requester(const Topology& topology, const PlacementRequester& added) {
  auto candidates = best_targets(topology, Query{.initiators = {added.uid}, .coherent = true});
  if (!candidates) return tl::unexpected<Error>(candidates.error());
  // Pages can be copied to where the requester has no coherent path.
  auto all = best_targets(topology, Query{.initiators = {added.uid}});
  auto requester = static_cast<Slot>(requesters_.size());
  slots_[added.uid] = requester;
  kinds_[added.uid] = 1;
  requesters_.push_back(added.uid);
  auto nearest =
      std::ranges::find_if(*all, [&](const Candidate& candidate) { return is_host(slots_[candidate.target]); });
  nearest_host_.push_back(nearest == all->end() ? kNoSlot : slots_[nearest->target]);
  std::uint16_t reached = 0;
  auto narrow = [](const std::optional<Value>& value) {
    return value ? static_cast<std::uint32_t>(std::min<std::uint64_t>(value->number, 0xffff'ffff)) : 0;
  };
  // What cannot be mapped is still copied from and to.
  for (const Candidate& candidate : *all) {
    if (const Slot target = slots_[candidate.target]; is_host(target)) {
      paths_[std::size_t{requester} * targets_.size() + target] = {narrow(candidate.bandwidth),
                                                                   narrow(candidate.latency), false, candidate.atomic};
    }
  }
  for (const Candidate& candidate : *candidates) {
    Slot target = slots_[candidate.target];
    if (is_host(target) && !added.maps_host) continue;
    paths_[std::size_t{requester} * targets_.size() + target] = {narrow(candidate.bandwidth), narrow(candidate.latency),
                                                                 true, candidate.atomic};
    order_[std::size_t{requester} * targets_.size() + reached++] = target;
    const std::size_t row = 2 * std::size_t{requester} * slots_.size() + candidate.target;
    serving_[row] = target;
    if (candidate.atomic) serving_[row + slots_.size()] = target;
  }
  reached_.push_back(reached);
  order_own_first(topology, requester);
  return {};
}

void PlacementMap::order_own_first(const Topology& topology, Slot requester) {
  const std::string& device = topology.initiator(requesters_[requester])->device;
  if (device.empty()) return;
  const auto begin = order_.begin() + static_cast<std::ptrdiff_t>(std::size_t{requester} * targets_.size());
  const auto equal = [&](Slot a, Slot b) {
    const Path& first = path(requester, a);
    const Path& second = path(requester, b);
    return first.bandwidth == second.bandwidth && first.latency == second.latency;
  };
  for (auto own = begin; own != begin + reached_[requester]; ++own) {
    if (topology.target(target_uid(*own))->device != device) continue;
    auto first = own;
    while (first != begin && equal(*std::prev(first), *own)) --first;
    std::rotate(first, own, std::next(own));
  }
}

void PlacementMap::order_shared(Slot requester) {
  auto begin = shared_order_.begin() + static_cast<std::ptrdiff_t>(std::size_t{requester} * targets_.size());
  auto end = begin;
  for (Slot target : best(requester)) {
    if (path(kHostRequester, target).reaches) *end++ = target;
  }
  // Equal ones stay in the requester's own order.
  std::stable_sort(begin, end, [&](Slot a, Slot b) {
    auto worse = [&](Slot target) {
      return std::min(path(kHostRequester, target).bandwidth, path(requester, target).bandwidth);
    };
    return worse(a) > worse(b);
  });
  shared_.push_back(static_cast<std::uint16_t>(end - begin));
}

// --- decisions

namespace {

constexpr std::uint64_t kPageSize = 4096;

class Placement {
 public:
  explicit Placement(const PlacementRequest& request)
      : r_(request), map_(*request.map), policy_(request.policy != nullptr ? *request.policy : kNoPolicy) {}

  Decision decide() const noexcept {
    Decision decision;
    if (!r_.can_move && r_.home != kNoSlot) return immovable();
    if (by_binding(&decision) || by_preference(&decision) || by_access_list(&decision) || by_reading(&decision) ||
        by_sharing(&decision) || by_bulk(&decision)) {
      return decision;
    }
    return by_cost();
  }

 private:
  static inline const Policy kNoPolicy{};

  const PlacementMap::Path& path(Slot target) const { return map_.path(r_.requester, target); }

  // Accesses of this kind work at the target.
  bool serves(Slot target) const {
    const auto& p = path(target);
    return p.reaches && (r_.access != Access::kAtomic || p.atomic);
  }
  // Without a policy the kernel takes host memory from one node.
  bool may_take(Slot target) const {
    return r_.kernel_node == kNoSlot || target == r_.kernel_node || !map_.is_host(target);
  }
  bool can_map_home() const { return r_.home != kNoSlot && r_.can_map_home && serves(r_.home); }

  std::uint64_t room(Slot target) const {
    if (map_.is_host(target) || target >= r_.room.size()) return std::numeric_limits<std::uint64_t>::max();
    return r_.room[target];
  }
  // Pages that are there already need none.
  bool has_room(Slot target) const { return target == r_.home || room(target) != 0; }

  Decision here(Reason reason) const { return {Action::kMap, reason, false, r_.home, pages_for(r_.home), 0}; }
  Decision go(Action action, Slot target, Reason reason, bool evict = false) const {
    return {action, reason, evict, target, evict ? 1 : pages_for(target), 0};
  }

  std::uint32_t pages_for(Slot target) const {
    std::uint64_t pages = std::max<std::uint32_t>(r_.history.dense_pages, 1);
    // One page after the other: the region grows with each, before it is dense.
    if (r_.history.stride_pages == 1 || r_.history.stride_pages == -1) {
      pages = std::max(pages, std::uint64_t{1} << std::min<std::uint32_t>(r_.history.streak, 9));
    }
    pages = std::min<std::uint64_t>(pages, r_.rules.max_pages);
    if (target != r_.home) pages = std::min(pages, std::max<std::uint64_t>(room(target), 1));
    return std::uint32_t{1} << (31 - __builtin_clz(static_cast<std::uint32_t>(pages)));
  }

  Decision immovable() const {
    if (can_map_home()) return {Action::kMap, Reason::kImmovable, false, r_.home, 1, 0};
    return {Action::kFail, Reason::kUnreachable, false, r_.home, 1, 0};
  }

  // The home satisfies the policy: use it there, if the requester can.
  bool stays(Slot target) const { return target == r_.home && can_map_home(); }

  // Home counts wherever it is listed; of the others the first that has room.
  bool by_binding(Decision* decision) const {
    if (policy_.bind.empty()) return false;
    const auto serving = map_.serving(r_.requester, r_.access == Access::kAtomic);
    const bool home_serves = can_map_home();
    Slot first_full = kNoSlot;
    Slot chosen = kNoSlot;
    auto next = policy_.bind.begin();
    for (; next != policy_.bind.end() && chosen == kNoSlot; ++next) {
      const Slot target = *next < serving.size() ? serving[*next] : kNoSlot;
      if (target == kNoSlot) continue;
      if (target == r_.home) {
        if (!home_serves) continue;  // bound here, but the requester cannot use it here
        *decision = here(Reason::kBoundHere);
        return true;
      }
      if (first_full == kNoSlot) first_full = target;
      if (room(target) != 0) chosen = target;
    }
    if (home_serves && std::find(next, policy_.bind.end(), map_.target_uid(r_.home)) != policy_.bind.end()) {
      *decision = here(Reason::kBoundHere);
      return true;
    }
    if (first_full == kNoSlot) return false;  // nothing listed is of use to the requester: others are allowed
    *decision = chosen != kNoSlot ? go(Action::kMove, chosen, Reason::kBound)
                                  : go(Action::kMove, first_full, Reason::kBoundFull, true);
    return true;
  }

  bool by_preference(Decision* decision) const {
    Slot target = policy_.preferred == kNoUid ? kNoSlot : map_.target(policy_.preferred);
    if (target == kNoSlot || !serves(target)) return false;
    if (stays(target)) {
      *decision = here(Reason::kPreferredHere);
      return true;
    }
    if (target == r_.home || !has_room(target)) return false;
    *decision = go(Action::kMove, target, Reason::kPreferred);
    return true;
  }

  bool by_access_list(Decision* decision) const {
    if (policy_.accessed_by.empty() || !can_map_home()) return false;
    Uid requester = map_.requester_uid(r_.requester);
    if (std::ranges::find(policy_.accessed_by, requester) == policy_.accessed_by.end()) return false;
    *decision = here(Reason::kAccessedBy);
    return true;
  }

  bool by_reading(Decision* decision) const {
    if (!policy_.read_mostly || r_.access != Access::kRead || r_.home == kNoSlot) return false;
    Slot target = first_with_room();
    if (target == kNoSlot || target == r_.home) return false;
    *decision = go(Action::kDuplicate, target, Reason::kReadMostly);
    return true;
  }

  bool by_sharing(Decision* decision) const {
    if (r_.rules.share_after_returns == 0 || r_.history.returns < r_.rules.share_after_returns) return false;
    if (r_.home == kNoSlot) return false;
    if (can_map_home()) {
      *decision = here(Reason::kBackAndForth);
      return true;
    }
    if (r_.can_share) {
      for (Slot target : map_.best_shared_with_host(r_.requester)) {
        // What the requester cannot map at home it could not share there either.
        if (target == r_.home || !may_take(target) || !serves(target) || !has_room(target)) continue;
        *decision = go(Action::kShare, target, Reason::kBackAndForth);
        return true;
      }
    }
    *decision = {Action::kHold, Reason::kCannotShare, false, r_.home, 1, r_.rules.hold_us};
    return true;
  }

  bool by_bulk(Decision* decision) const {
    if (r_.access != Access::kRead || r_.rules.bulk_pages == 0 || r_.copyable_pages < r_.rules.bulk_pages) return false;
    Slot target = r_.home == kNoSlot ? kNoSlot : other_than_home(true);
    if (target == kNoSlot) return false;
    *decision = go(Action::kDuplicate, target, Reason::kReadInBulk);
    return true;
  }

  // The best target for the requester that has room for a page.
  Slot first_with_room() const {
    for (Slot target : map_.best(r_.requester)) {
      if (may_take(target) && serves(target) && has_room(target)) return target;
    }
    return kNoSlot;
  }
  Slot first_served() const {
    for (Slot target : map_.best(r_.requester)) {
      if (may_take(target) && serves(target)) return target;
    }
    return kNoSlot;
  }

  Decision by_cost() const {
    Slot best = first_with_room();
    if (r_.home == kNoSlot) {
      if (best != kNoSlot) return go(Action::kMove, best, Reason::kFirstTouch);
      Slot full = first_served();
      if (full == kNoSlot) return {Action::kFail, Reason::kUnreachable, false, kNoSlot, 1, 0};
      return go(Action::kMove, full, Reason::kFull, true);
    }
    if (can_map_home()) {
      if (best == kNoSlot || best == r_.home) return here(Reason::kBestHere);
      return is_worth_moving(best) ? go(Action::kMove, best, Reason::kWorthMoving) : here(Reason::kNotWorthMoving);
    }
    // Room at home is of no use.
    if (best == r_.home) best = other_than_home(true);
    if (best != kNoSlot) return go(Action::kMove, best, Reason::kOnlyWay);
    Slot full = other_than_home(false);
    if (full == kNoSlot) return {Action::kFail, Reason::kUnreachable, false, r_.home, 1, 0};
    return go(Action::kMove, full, Reason::kFull, true);
  }

  Slot other_than_home(bool with_room) const {
    for (Slot target : map_.best(r_.requester)) {
      if (target == r_.home || !may_take(target) || !serves(target)) continue;
      if (!with_room || has_room(target)) return target;
    }
    return kNoSlot;
  }

  // ns to read a page once.
  static std::uint64_t touch_cost(const PlacementMap::Path& p) {
    std::uint64_t transfer = p.bandwidth == 0 ? 0 : kPageSize * 1'000'000'000 / (std::uint64_t{p.bandwidth} << 20);
    return p.latency + transfer;
  }

  // What the requester saves by having the page at `target`, as often as it is likely to touch it, and what it saves by
  // not mapping it where it is, outweigh the move. Of a page, when pages_for() pages move together.
  bool is_worth_moving(Slot target) const {
    const auto& there = path(target);
    const auto& now = path(r_.home);
    auto cost_there = static_cast<std::int64_t>(touch_cost(there));
    auto cost_now = static_cast<std::int64_t>(touch_cost(now));
    // Unknown against known is no argument.
    bool comparable = (there.bandwidth == 0) == (now.bandwidth == 0) && (there.latency == 0) == (now.latency == 0);
    auto touches = std::min<std::int64_t>(std::int64_t{r_.rules.expected_touches} * (1 + r_.history.faults),
                                          r_.rules.max_expected_touches);
    std::int64_t pages = pages_for(target);
    std::int64_t saved = (comparable ? cost_now - cost_there : 0) * touches + r_.map_cost_ns / pages;
    std::int64_t cost = cost_now + cost_there + r_.rules.move_overhead_ns / pages;
    return saved * 100 > cost * r_.rules.worth_percent;
  }

  const PlacementRequest& r_;
  const PlacementMap& map_;
  const Policy& policy_;
};

bool is_bound_to(const Policy* policy, Slot target, const PlacementMap& map) {
  return policy != nullptr && target < map.target_count() &&
         std::ranges::find(policy->bind, map.target_uid(target)) != policy->bind.end();
}

}  // namespace

Decision decide(const PlacementRequest& request) noexcept {
  return Placement(request).decide();
}

Prefetch decide_prefetch(const PlacementRequest& request, const Decision& decision) noexcept {
  constexpr std::uint32_t kStreakNeeded = 3;
  const History& history = request.history;
  bool brings_memory = decision.action == Action::kMove || decision.action == Action::kDuplicate;
  if (!brings_memory || decision.evict || history.streak < kStreakNeeded || history.stride_pages == 0) return {};
  // Going back and forth: what is brought ahead would be taken back.
  if (history.returns != 0) return {};
  std::uint64_t pages = std::uint64_t{1} << std::min<std::uint32_t>(history.streak, 8);
  if (decision.target < request.room.size() && !request.map->is_host(decision.target)) {
    std::uint64_t room = request.room[decision.target];
    pages = std::min(pages, room > decision.pages ? room - decision.pages : 0);
  }
  // A stride of less than the region that moves anyway needs no more than the next regions.
  std::int32_t stride = history.stride_pages;
  auto region = static_cast<std::int32_t>(decision.pages);
  if (stride > -region && stride < region) stride = stride > 0 ? region : -region;
  return {stride, static_cast<std::uint32_t>(pages)};
}

std::uint64_t eviction_rank(const EvictionCandidate& candidate, Slot target, const PlacementMap& map) noexcept {
  if (is_bound_to(candidate.policy, target, map)) return 0;
  bool preferred = candidate.policy != nullptr && target < map.target_count() &&
                   candidate.policy->preferred == map.target_uid(target);
  // Age first, by powers of two; between blocks of an age, those that cost least to let go and make most room.
  auto age = static_cast<std::uint64_t>(std::bit_width(candidate.idle_ms / (preferred ? 4 : 1)));
  std::uint64_t kept = candidate.pages - std::min(candidate.pages_to_write, candidate.pages);
  return 1 + (age << 20) + (std::min<std::uint64_t>(kept, 511) << 10) + std::min<std::uint64_t>(candidate.pages, 1023);
}

Decision decide_eviction(Slot from, Slot requester, const Policy* policy, const PlacementMap& map,
                         std::span<const std::uint64_t> room) noexcept {
  auto usable = [&](Slot target) {
    if (target == kNoSlot || target == from) return false;
    return map.is_host(target) || (target < room.size() && room[target] != 0);
  };
  if (policy != nullptr) {
    for (Uid uid : policy->bind) {
      Slot target = map.target(uid);
      if (usable(target)) return {Action::kMove, Reason::kBound, false, target, 1, 0};
    }
    Slot preferred = policy->preferred == kNoUid ? kNoSlot : map.target(policy->preferred);
    if (usable(preferred)) return {Action::kMove, Reason::kPreferred, false, preferred, 1, 0};
  }
  // A device that knows of no host memory: what the application's threads reach best.
  Slot host = map.nearest_host(requester);
  if (!usable(host)) host = map.nearest_host(PlacementMap::kHostRequester);
  const std::uint32_t to_host = usable(host) ? map.path(requester, host).bandwidth : 0;
  for (Slot target : map.best(requester)) {
    // Unknown against known is no argument.
    const bool nearer = !usable(host) || (to_host != 0 && map.path(requester, target).bandwidth > to_host);
    if (nearer && !map.is_host(target) && usable(target)) return {Action::kMove, Reason::kEvicted, false, target, 1, 0};
  }
  if (usable(host)) return {Action::kMove, Reason::kEvicted, false, host, 1, 0};
  return {};
}

const char* name_of(Action action) noexcept {
  switch (action) {
    case Action::kMap:
      return "map";
    case Action::kMove:
      return "move";
    case Action::kDuplicate:
      return "duplicate";
    case Action::kShare:
      return "share";
    case Action::kHold:
      return "hold";
    case Action::kFail:
      return "fail";
  }
  return "?";
}

const char* text_of(Reason reason) noexcept {
  switch (reason) {
    case Reason::kBound:
      return "bound to this target, the first listed one that has room";
    case Reason::kBoundHere:
      return "bound to where it lives";
    case Reason::kBoundFull:
      return "bound to targets that are all full: something must leave the first";
    case Reason::kPreferred:
      return "this target is preferred and has room";
    case Reason::kPreferredHere:
      return "lives in its preferred target";
    case Reason::kAccessedBy:
      return "the range is marked as accessed by this initiator all the time, so it is mapped rather than moved";
    case Reason::kReadMostly:
      return "the range is marked as read mostly, so the reader gets a copy";
    case Reason::kBackAndForth:
      return "the page goes back and forth, so both sides use it in one place";
    case Reason::kCannotShare:
      return "the page goes back and forth and no memory serves both sides, so it rests where it is for a while";
    case Reason::kFirstTouch:
      return "nobody has touched it yet: allocated in the best memory of who asks";
    case Reason::kBestHere:
      return "lives in the best memory of who asks already";
    case Reason::kNotWorthMoving:
      return "using it where it is costs less than moving it nearer";
    case Reason::kWorthMoving:
      return "nearer memory saves more than the move costs";
    case Reason::kOnlyWay:
      return "who asks cannot use it where it is";
    case Reason::kFull:
      return "no memory that serves who asks has room: something must leave";
    case Reason::kEvicted:
      return "evicted, because its target is full and of what may leave it was used least of late or costs least to "
             "let go; it goes where the program wants it next, or to the nearest memory with room";
    case Reason::kImmovable:
      return "the page cannot be moved, so it is mapped where it is";
    case Reason::kUnreachable:
      return "the page cannot be moved, and who asks cannot use it where it is";
    case Reason::kReadInBulk:
      return "many pages are read in one go, likely results, so both sides have copies";
    case Reason::kWritten:
      return "one side writes the page, so the other's copy goes";
    case Reason::kAsked:
      return "the program asked for it, or a command or a fork needs it there";
    case Reason::kExpected:
      return "a launch that waits names it, so it comes ahead";
  }
  return "?";
}

}  // namespace mirrorcl::hms
