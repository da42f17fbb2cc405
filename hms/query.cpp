// SPDX-License-Identifier: Apache-2.0
#include "hms/query.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <tuple>
#include <unordered_map>

namespace mirrorcl::hms {
namespace {

constexpr std::array<std::string_view, 4> kRankNames = {"bandwidth", "latency", "capacity", "free"};
constexpr std::array<std::string_view, 3> kLocalityNames = {"local", "package", "remote"};

// One way of an initiator to a link: what best_targets() compares. An unknown figure is as bad as can be.
struct Way {
  std::uint32_t link = 0;
  std::uint32_t bridges = 0;
  Value bandwidth;
  Value latency;
  bool bandwidth_known = false;
  bool latency_known = false;
  bool coherent = true;
  bool atomic = true;
};

constexpr std::uint64_t kWorstLatency = std::numeric_limits<std::uint64_t>::max();
// More incomparable ways to one link than this are not followed; their number could otherwise grow exponentially.
constexpr std::size_t kMaxWays = 32;
// Steps of the search for paths, for the same reason.
constexpr std::size_t kMaxSteps = 1'000'000;

Way way_over(std::uint32_t link, const Properties& properties, bool coherent, bool atomic, Direction direction) {
  const auto bandwidth = properties.bandwidth(direction);
  const auto latency = properties.latency(direction);
  return Way{.link = link,
             .bridges = 0,
             .bandwidth = bandwidth.value_or(Value{}),
             .latency = latency.value_or(Value{kWorstLatency, Source::kAssumed}),
             .bandwidth_known = bandwidth.has_value(),
             .latency_known = latency.has_value(),
             .coherent = coherent,
             .atomic = atomic};
}

// Minimum of bandwidths, sum of latencies: join() of properties.h for the two figures that a question is about.
Way extend(const Way& way, const Way& hop) {
  const auto least_certain = [](Value a, Value b) { return std::min(a.source, b.source); };
  Way result;
  result.link = hop.link;
  result.bridges = way.bridges;
  result.bandwidth = {std::min(way.bandwidth.number, hop.bandwidth.number),
                      least_certain(way.bandwidth, hop.bandwidth)};
  const std::uint64_t room = kWorstLatency - way.latency.number;
  result.latency = {hop.latency.number > room ? kWorstLatency : way.latency.number + hop.latency.number,
                    least_certain(way.latency, hop.latency)};
  result.bandwidth_known = way.bandwidth_known && hop.bandwidth_known;
  result.latency_known = way.latency_known && hop.latency_known;
  result.coherent = way.coherent && hop.coherent;
  result.atomic = way.atomic && hop.atomic;
  return result;
}

// `a` is at least as good as `b` whatever the question.
bool dominates(const Way& a, const Way& b) {
  return a.bandwidth_known >= b.bandwidth_known && a.bandwidth.number >= b.bandwidth.number &&
         a.latency_known >= b.latency_known && a.latency.number <= b.latency.number && a.bridges <= b.bridges &&
         a.coherent >= b.coherent && a.atomic >= b.atomic;
}

// The preferred way comes first.
auto way_order(const Way& way, Rank rank) {
  const auto unwanted = std::numeric_limits<std::uint64_t>::max() - way.bandwidth.number;
  const auto flags = std::pair(!way.coherent, !way.atomic);
  return rank == Rank::kLatency ? std::tuple(!way.latency_known, way.latency.number, unwanted, way.bridges, flags)
                                : std::tuple(!way.bandwidth_known, unwanted, way.latency.number, way.bridges, flags);
}

bool contains(const std::vector<Uid>& sorted, Uid uid) {
  return std::binary_search(sorted.begin(), sorted.end(), uid);
}

// All ways of an initiator to links that no other way to the same link dominates.
class Explorer {
 public:
  Explorer(const Topology& topology, const Query& query) : topology_(topology), query_(query) {}

  const std::vector<Way>& explore(std::uint32_t initiator) {
    ways_.clear();
    ways_of_link_.clear();
    const auto& adjacency = topology_.adjacency();
    const Uid uid = topology_.initiators()[initiator].uid;
    bool crossings = false;
    for (const auto position : adjacency.links_of_initiator[initiator]) {
      const Link& link = topology_.links()[position];
      if (!allowed(link)) continue;
      ways_.push_back(way_over(position, link.properties, link.coherent, link.atomic, query_.direction));
      crossings = crossings || !adjacency.crossings_of_link[position].empty();
    }
    if (!crossings) return ways_;
    for (std::size_t i = 0; i < ways_.size(); ++i) ways_of_link_[ways_[i].link].push_back(i);
    for (std::size_t i = 0; i < ways_.size(); ++i) cross_from(i, uid);
    return ways_;
  }

 private:
  template <typename Hop>
  bool allowed(const Hop& hop) const {
    return hop.known() && (hop.coherent || !query_.coherent) && (hop.atomic || !query_.atomic);
  }

  void cross_from(std::size_t from, Uid initiator) {
    if (ways_[from].bridges == kMaxBridges) return;
    for (const auto& crossing : topology_.adjacency().crossings_of_link[ways_[from].link]) {
      const Bridge& bridge = topology_.bridges()[crossing.bridge];
      const Link& link = topology_.links()[crossing.link];
      if (!allowed(bridge) || !allowed(link) || !contains(bridge.initiators, initiator)) continue;
      const Way over_bridge = extend(
          ways_[from], way_over(crossing.link, bridge.properties, bridge.coherent, bridge.atomic, query_.direction));
      Way way =
          extend(over_bridge, way_over(crossing.link, link.properties, link.coherent, link.atomic, query_.direction));
      ++way.bridges;
      keep(way);
    }
  }

  // A dominated way stays in the list (it does no harm there) but a new one that is dominated is not taken.
  void keep(const Way& way) {
    auto& others = ways_of_link_[way.link];
    if (others.size() >= kMaxWays) return;
    if (std::any_of(others.begin(), others.end(), [&](std::size_t i) { return dominates(ways_[i], way); })) return;
    others.push_back(ways_.size());
    ways_.push_back(way);
  }

  const Topology& topology_;
  const Query& query_;
  std::vector<Way> ways_;
  std::unordered_map<std::uint32_t, std::vector<std::size_t>> ways_of_link_;
};

Candidate candidate_of(const Way& way) {
  Candidate candidate;
  if (way.bandwidth_known) candidate.bandwidth = way.bandwidth;
  if (way.latency_known) candidate.latency = way.latency;
  candidate.coherent = way.coherent;
  candidate.atomic = way.atomic;
  candidate.bridges = way.bridges;
  return candidate;
}

// The worst of two ways to the same target, figure by figure.
void worsen(Way& a, const Way& b) {
  if (!b.bandwidth_known || (a.bandwidth_known && b.bandwidth.number < a.bandwidth.number)) a.bandwidth = b.bandwidth;
  if (!b.latency_known || (a.latency_known && b.latency.number > a.latency.number)) a.latency = b.latency;
  a.bandwidth_known = a.bandwidth_known && b.bandwidth_known;
  a.latency_known = a.latency_known && b.latency_known;
  a.coherent = a.coherent && b.coherent;
  a.atomic = a.atomic && b.atomic;
  a.bridges = std::max(a.bridges, b.bridges);
}

bool wanted(const Target& target, const Query& query) {
  return target.known() && (target.online || query.include_offline) && (!target.free || *target.free >= query.min_free);
}

// Where a set of initiators is, to find out which target is near to them.
struct Place {
  IdSet cpus;
  IdSet packages;
  std::vector<std::string_view> devices;

  void add(const Initiator& initiator) {
    cpus |= initiator.cpus;
    if (initiator.package >= 0 && static_cast<std::uint32_t>(initiator.package) <= IdSet::kMax) {
      packages.add(static_cast<std::uint32_t>(initiator.package));
    }
    if (!initiator.device.empty()) devices.push_back(initiator.device);
  }

  Locality locality_of(const Target& target) const {
    // A device's own memory is local to the device, not to the CPUs near it.
    const bool local = target.device.empty()
                           ? cpus.intersects(target.cpus)
                           : std::find(devices.begin(), devices.end(), target.device) != devices.end();
    if (local) return Locality::kLocal;
    const bool same = target.package >= 0 && packages.contains(static_cast<std::uint32_t>(target.package));
    return same ? Locality::kPackage : Locality::kRemote;
  }
};

// The answers of all initiators of a query, by the targets' positions. Most initiators of a large machine reach most
// targets over one and the same link, which is their worst: only what better ways lead to, now or for the initiator
// before, is looked at then.
class Answers {
 public:
  explicit Answers(const Topology& topology)
      : topology_(topology),
        worst_(topology.targets().size()),
        mine_(worst_.size()),
        last_link_(worst_.size()),
        on_base_(worst_.size()),
        missed_(worst_.size()) {}

  void add(const std::vector<Way>& ways, Rank rank) {
    // The best way comes last and has the last word.
    ordered_.clear();
    for (const Way& way : ways) ordered_.push_back(&way);
    std::stable_sort(ordered_.begin(), ordered_.end(),
                     [rank](const Way* a, const Way* b) { return way_order(*b, rank) < way_order(*a, rank); });
    const Way* base = ordered_.empty() ? nullptr : ordered_.front();
    const bool as_before = initiators_ != 0 && base != nullptr && straight_link(*base) == base_link_;
    if (!as_before) start_from(base);
    look_at_.swap(special_);
    for (const auto target : look_at_) mine_[target] = on_base_[target] ? base : nullptr;
    special_.clear();
    for (std::size_t i = 1; i < ordered_.size(); ++i) {
      for (const auto target : topology_.adjacency().targets_of_link[ordered_[i]->link]) {
        mine_[target] = ordered_[i];
        special_.push_back(target);
      }
    }
    if (as_before) {
      for (const auto target : look_at_) compare(target);
      for (const auto target : special_) compare(target);
    } else {
      for (std::uint32_t target = 0; target < mine_.size(); ++target) compare(target);
    }
    ++initiators_;
  }

  // What all initiators reach the target at this position with; nothing if one does not.
  const Way* at(std::size_t target) const { return missed_[target] ? nullptr : &worst_[target]; }

 private:
  static constexpr std::uint32_t kNoLink = ~std::uint32_t{0};

  // The link that a way goes straight over; kNoLink: it crosses bridges.
  static std::uint32_t straight_link(const Way& way) { return way.bridges == 0 ? way.link : kNoLink; }

  // `base` is the worst way of the initiator being added; null: it reaches nothing.
  void start_from(const Way* base) {
    // Never equal to a way with bridges.
    base_link_ = base == nullptr || base->bridges != 0 ? kNoLink - 1 : base->link;
    special_.clear();
    std::fill(mine_.begin(), mine_.end(), nullptr);
    std::fill(on_base_.begin(), on_base_.end(), false);
    if (base == nullptr) return;
    for (const auto target : topology_.adjacency().targets_of_link[base->link]) {
      mine_[target] = base;
      on_base_[target] = true;
    }
  }

  void compare(std::uint32_t target) {
    if (mine_[target] == nullptr) missed_[target] = true;
    if (missed_[target]) return;
    // Straight over the same link as the initiator before: nothing can have become worse.
    const std::uint32_t link = straight_link(*mine_[target]);
    if (initiators_ == 0) {
      worst_[target] = *mine_[target];
    } else if (link == kNoLink || link != last_link_[target]) {
      worsen(worst_[target], *mine_[target]);
    }
    last_link_[target] = link;
  }

  const Topology& topology_;
  std::vector<Way> worst_;
  std::vector<const Way*> ordered_;        // of the initiator being added, worst first
  std::vector<const Way*> mine_;           // its best way to each target, as far as it is looked at
  std::vector<std::uint32_t> last_link_;   // that the initiator before went straight over, or kNoLink
  std::uint32_t base_link_ = kNoLink - 1;  // that the worst way of the initiator before went straight over
  std::vector<char> on_base_;              // targets of that
  std::vector<std::uint32_t> special_;     // targets to which the initiator before had better ways
  std::vector<std::uint32_t> look_at_;
  std::vector<char> missed_;  // an initiator does not reach the target
  std::uint32_t initiators_ = 0;
};

struct Ranked {
  Candidate candidate;
  std::tuple<std::uint64_t, Locality, std::uint64_t, std::uint32_t, Uid> order;
};

// What a ranking sorts by: the figure asked for, then as best_targets() promises. Smaller is better.
Ranked ranked(const Target& target, const Way& way, const Place& place, Rank rank) {
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  Ranked result;
  result.candidate = candidate_of(way);
  result.candidate.target = target.uid;
  result.candidate.locality = place.locality_of(target);
  const std::uint64_t narrow = way.bandwidth_known ? kMost - 1 - std::min(way.bandwidth.number, kMost - 1) : kMost;
  const std::uint64_t slow = way.latency_known ? way.latency.number : kMost;
  std::uint64_t first = narrow;
  if (rank == Rank::kLatency) first = slow;
  if (rank == Rank::kCapacity) first = kMost - target.size;
  if (rank == Rank::kFreeSpace) first = target.free ? kMost - 1 - std::min(*target.free, kMost - 1) : kMost;
  const std::uint64_t second = rank == Rank::kBandwidth ? slow : narrow;
  result.order = {first, result.candidate.locality, second, way.bridges, target.uid};
  return result;
}

// Depth-first search for all paths of one initiator.
class PathFinder {
 public:
  PathFinder(const Topology& topology, Uid from, Uid to, std::size_t limit)
      : topology_(topology), from_(from), to_(to), limit_(limit), visited_(topology.links().size()) {}

  std::vector<Path> find() {
    for (const auto position : topology_.adjacency().links_of_initiator[*topology_.position(from_)]) {
      if (topology_.links()[position].known()) visit(position, {}, 0);
    }
    drop_outdone();
    return std::move(found_);
  }

 private:
  bool ends_at(const Link& link) const {
    return link.uid == to_ || contains(link.targets, to_) || contains(link.initiators, to_);
  }

  void visit(std::uint32_t position, const Path& before, std::size_t bridges) {
    if (found_.size() >= limit_ || ++steps_ > kMaxSteps) return;
    const Link& link = topology_.links()[position];
    Path path = extended(before, link);
    if (ends_at(link)) found_.push_back(path);
    if (bridges == kMaxBridges) return;
    visited_[position] = true;
    for (const auto& crossing : topology_.adjacency().crossings_of_link[position]) {
      const Bridge& bridge = topology_.bridges()[crossing.bridge];
      if (visited_[crossing.link] || !bridge.known() || !topology_.links()[crossing.link].known()) continue;
      if (!contains(bridge.initiators, from_)) continue;
      visit(crossing.link, extended(path, bridge), bridges + 1);
    }
    visited_[position] = false;
  }

  // A path that ends on a link of merged cells is not one if another describes the pair better (see Link::merged).
  void drop_outdone() {
    const auto way = [](const Path& path) {
      Way result = way_over(0, path.figures.properties, path.figures.coherent, path.figures.atomic, Direction::kBoth);
      result.bridges = static_cast<std::uint32_t>(path.hops.size() / 2);
      return result;
    };
    std::vector<bool> outdone(found_.size());
    for (std::size_t i = 0; i < found_.size(); ++i) {
      if (!topology_.link(found_[i].hops.back())->merged) continue;
      for (std::size_t j = 0; j < found_.size() && !outdone[i]; ++j) {
        const bool better = dominates(way(found_[j]), way(found_[i]));
        const bool equal = better && dominates(way(found_[i]), way(found_[j]));
        outdone[i] = j != i && better && !(equal && i < j);
      }
    }
    std::size_t position = 0;
    std::erase_if(found_, [&](const Path&) { return outdone[position++]; });
  }

  template <typename Hop>
  static Path extended(const Path& before, const Hop& hop) {
    Path path = before;
    const PathFigures figures{hop.properties, hop.coherent, hop.atomic};
    path.figures = before.hops.empty() ? figures : join(before.figures, figures);
    path.hops.push_back(hop.uid);
    return path;
  }

  const Topology& topology_;
  Uid from_;
  Uid to_;
  std::size_t limit_;
  std::vector<bool> visited_;
  std::size_t steps_ = 0;
  std::vector<Path> found_;
};

bool path_before(const Path& a, const Path& b) {
  const auto order = [](const Path& path) {
    const auto& p = path.figures.properties;
    const auto way = way_over(0, p, true, true, Direction::kBoth);
    return std::tuple(way_order(way, Rank::kBandwidth), path.hops.size());
  };
  return order(a) < order(b);
}

tl::unexpected<Error> no_such_initiator(Uid uid) {
  return fail(ErrorCode::kInvalidArgument, fmt::format("{} is not the uid of an initiator", uid));
}

}  // namespace

Result<std::vector<Candidate>> best_targets(const Topology& topology, const Query& query) {
  if (query.initiators.empty()) return fail(ErrorCode::kInvalidArgument, "the query names no initiator");
  Explorer explorer(topology, query);
  Answers answers(topology);
  Place place;
  for (const Uid uid : query.initiators) {
    const Initiator* initiator = topology.initiator(uid);
    if (initiator == nullptr || !initiator->known()) return no_such_initiator(uid);
    place.add(*initiator);
    answers.add(explorer.explore(*topology.position(uid)), query.rank);
  }
  std::vector<Ranked> all;
  for (std::size_t i = 0; i < topology.targets().size(); ++i) {
    const Target& target = topology.targets()[i];
    const Way* way = answers.at(i);
    if (way != nullptr && wanted(target, query)) all.push_back(ranked(target, *way, place, query.rank));
  }
  std::sort(all.begin(), all.end(), [](const Ranked& a, const Ranked& b) { return a.order < b.order; });
  std::vector<Candidate> best;
  best.reserve(std::min(all.size(), query.limit));
  for (const Ranked& one : all) {
    if (best.size() == query.limit) break;
    best.push_back(one.candidate);
  }
  return best;
}

std::optional<Candidate> reach(const Topology& topology, Uid initiator, Uid target, const Query& query) {
  const Initiator* from = topology.initiator(initiator);
  const Target* to = topology.target(target);
  if (from == nullptr || to == nullptr || !from->known() || !to->known()) return std::nullopt;
  Explorer explorer(topology, query);
  const Way* best = nullptr;
  for (const Way& way : explorer.explore(*topology.position(initiator))) {
    if (!contains(topology.links()[way.link].targets, target)) continue;
    if (best == nullptr || way_order(way, query.rank) < way_order(*best, query.rank)) best = &way;
  }
  if (best == nullptr) return std::nullopt;
  Place place;
  place.add(*from);
  Candidate candidate = candidate_of(*best);
  candidate.target = target;
  candidate.locality = place.locality_of(*to);
  return candidate;
}

Result<std::vector<Path>> paths(const Topology& topology, Uid from, Uid to, std::size_t limit) {
  const Initiator* initiator = topology.initiator(from);
  if (initiator == nullptr || !initiator->known()) return no_such_initiator(from);
  if (topology.object(to) == nullptr || topology.bridge(to) != nullptr) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} is not the uid of a target, initiator or link", to));
  }
  if (!topology.object(to)->known()) return std::vector<Path>{};
  auto found = PathFinder(topology, from, to, limit).find();
  std::stable_sort(found.begin(), found.end(), path_before);
  return found;
}

std::string_view name_of(Rank rank) {
  return kRankNames[static_cast<std::size_t>(rank)];
}
std::string_view name_of(Locality locality) {
  return kLocalityNames[static_cast<std::size_t>(locality)];
}

std::optional<Rank> rank_of(std::string_view name) {
  const auto found = std::find(kRankNames.begin(), kRankNames.end(), name);
  if (found == kRankNames.end()) return std::nullopt;
  return static_cast<Rank>(found - kRankNames.begin());
}

}  // namespace mirrorcl::hms
