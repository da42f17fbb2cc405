// SPDX-License-Identifier: Apache-2.0
#include "hms/refresh.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "hms/sysfs.h"

namespace mirrorcl::hms {
namespace {

class Renumbering {
 public:
  Renumbering(const Topology& known, const Topology& fresh) : known_(known), fresh_(fresh), next_(known.next_uid()) {}

  Refreshed run() {
    match_by_name(fresh_.targets(), ObjectType::kTarget);
    match_by_name(fresh_.initiators(), ObjectType::kInitiator);
    match_cpus();
    number_the_rest(fresh_.targets());
    number_the_rest(fresh_.initiators());
    match_by_name(fresh_.links(), ObjectType::kLink);
    match_links();
    number_the_rest(fresh_.links());
    match_by_name(fresh_.bridges(), ObjectType::kBridge);
    match_bridges();
    number_the_rest(fresh_.bridges());
    rebuild();
    compare(known_.targets(), fresh_.targets());
    compare(known_.initiators(), fresh_.initiators());
    return std::move(result_);
  }

 private:
  void match(Uid fresh, Uid known) {
    uids_[fresh] = known;
    taken_.insert(known);
  }

  template <typename T>
  void match_by_name(std::span<const T> objects, ObjectType type) {
    for (const T& object : objects) {
      const Object* known = known_.find(object.name);
      if (known != nullptr && known_.type_of(known->uid) == type) match(object.uid, known->uid);
    }
  }

  // The initiator that most of the CPUs belonged to, if no other has taken its place.
  void match_cpus() {
    for (const Initiator& initiator : fresh_.initiators()) {
      if (initiator.kind != InitiatorKind::kCpu || uids_.contains(initiator.uid)) continue;
      const Initiator* best = nullptr;
      std::size_t most = 0;
      for (const Initiator& candidate : known_.initiators()) {
        if (candidate.kind != InitiatorKind::kCpu || taken_.contains(candidate.uid)) continue;
        const std::size_t common = candidate.cpus.common(initiator.cpus);
        if (common > most) {
          best = &candidate;
          most = common;
        }
      }
      if (best != nullptr) match(initiator.uid, best->uid);
    }
  }

  void match_links() {
    for (const Link& link : fresh_.links()) {
      if (uids_.contains(link.uid)) continue;
      const auto initiators = renumbered(link.initiators), targets = renumbered(link.targets);
      for (const Link& candidate : known_.links()) {
        if (taken_.contains(candidate.uid) || candidate.initiators != initiators || candidate.targets != targets)
          continue;
        match(link.uid, candidate.uid);
        break;
      }
    }
  }

  void match_bridges() {
    for (const Bridge& bridge : fresh_.bridges()) {
      if (uids_.contains(bridge.uid)) continue;
      const auto initiators = renumbered(bridge.initiators);
      for (const Bridge& candidate : known_.bridges()) {
        if (taken_.contains(candidate.uid) || candidate.from != uids_.at(bridge.from) ||
            candidate.to != uids_.at(bridge.to) || candidate.initiators != initiators) {
          continue;
        }
        match(bridge.uid, candidate.uid);
        break;
      }
    }
  }

  template <typename T>
  void number_the_rest(std::span<const T> objects) {
    for (const T& object : objects) {
      if (!uids_.contains(object.uid)) uids_[object.uid] = next_++;
    }
  }

  // Members that have their new numbers already, sorted.
  std::vector<Uid> renumbered(const std::vector<Uid>& members) const {
    std::vector<Uid> result;
    result.reserve(members.size());
    for (const Uid member : members) result.push_back(uids_.at(member));
    std::sort(result.begin(), result.end());
    return result;
  }

  template <typename T>
  std::vector<T> in_new_order(std::span<const T> objects) const {
    std::vector<T> copies(objects.begin(), objects.end());
    for (T& copy : copies) copy.uid = uids_.at(copy.uid);
    std::sort(copies.begin(), copies.end(), [](const T& a, const T& b) { return a.uid < b.uid; });
    return copies;
  }

  // Nothing can be refused: names and references are those of `fresh`, uids are different.
  void rebuild() {
    Topology& topology = result_.topology;
    topology.info = fresh_.info;
    for (Target& target : in_new_order(fresh_.targets())) static_cast<void>(*topology.add(std::move(target)));
    for (Initiator& one : in_new_order(fresh_.initiators())) static_cast<void>(*topology.add(std::move(one)));
    for (Link& link : in_new_order(fresh_.links())) {
      link.initiators = renumbered(link.initiators);
      link.targets = renumbered(link.targets);
      static_cast<void>(*topology.add(std::move(link)));
    }
    for (Bridge& bridge : in_new_order(fresh_.bridges())) {
      bridge.from = uids_.at(bridge.from);
      bridge.to = uids_.at(bridge.to);
      bridge.initiators = renumbered(bridge.initiators);
      static_cast<void>(*topology.add(std::move(bridge)));
    }
    topology.reserve_uids(std::max(next_, known_.next_uid()));
  }

  static bool same(Target a, const Target& b) {
    a.free = b.free;
    return a == b;
  }
  static bool same(const Initiator& a, const Initiator& b) { return a == b; }

  template <typename T>
  void compare(std::span<const T> known, std::span<const T> fresh) {
    std::map<Uid, const T*> before;
    for (const T& object : known) before[object.uid] = &object;
    for (T object : fresh) {
      object.uid = uids_.at(object.uid);
      const auto old = before.find(object.uid);
      if (old == before.end()) {
        result_.added.push_back(object.name);
        continue;
      }
      if (!same(object, *old->second)) result_.changed.push_back(object.name);
      before.erase(old);
    }
    for (const auto& [uid, object] : before) result_.removed.push_back(object->name);
  }

  const Topology& known_;
  const Topology& fresh_;
  Uid next_;
  std::map<Uid, Uid> uids_;  // from fresh to what they are from now on
  std::set<Uid> taken_;      // of those, the ones from `known`
  Refreshed result_;
};

}  // namespace

Refreshed refresh(const Topology& known, const Topology& fresh) {
  return Renumbering(known, fresh).run();
}

void refresh_free_space(Topology& topology) {
  const Sysfs sysfs("");
  std::vector<std::pair<Uid, std::uint32_t>> nodes;
  for (const Target& target : topology.targets()) {
    if (target.is_host()) nodes.emplace_back(target.uid, static_cast<std::uint32_t>(target.node));
  }
  for (const auto& [uid, node] : nodes) static_cast<void>(topology.set_free(uid, sysfs.free_memory(node)));
}

}  // namespace mirrorcl::hms
