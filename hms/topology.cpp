// SPDX-License-Identifier: Apache-2.0
#include "hms/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace mirrorcl::hms {
namespace {

constexpr std::array<std::string_view, 4> kTypeNames = {"target", "initiator", "link", "bridge"};
constexpr std::array<std::string_view, 7> kMemoryKindNames = {"dram", "hbm", "nvm", "cxl", "spm", "device", "other"};
constexpr std::array<std::string_view, 3> kInitiatorKindNames = {"cpu", "device", "generic"};

template <typename Enum, std::size_t N>
std::optional<Enum> enum_of(const std::array<std::string_view, N>& names, std::string_view name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) return std::nullopt;
  return static_cast<Enum>(found - names.begin());
}

// Where an object with this uid is, or would be put, in a vector ordered by uid.
template <typename Objects>
auto by_uid(Objects& objects, Uid uid) {
  return std::lower_bound(objects.begin(), objects.end(), uid, [](const Object& o, Uid u) { return o.uid < u; });
}

void forget(std::vector<Uid>& members, Uid uid) {
  std::erase(members, uid);
}

}  // namespace

Result<Uid> Topology::claim(Object& object, ObjectType type) {
  if (object.uid != kNoUid && slots_.contains(object.uid)) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("uid {} is used twice", object.uid));
  }
  if (object.uid == kNoUid && next_uid_ == kNoUid) {
    return fail(ErrorCode::kInvalidArgument, "all uids are used up");
  }
  const Uid uid = object.uid == kNoUid ? next_uid_ : object.uid;
  if (object.name.empty()) object.name = fmt::format("{}{}", name_of(type), uid);
  if (names_.contains(object.name)) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("two objects are named '{}'", object.name));
  }
  object.uid = uid;
  return uid;
}

Result<void> Topology::check_members(const Object& object, std::vector<Uid>& members, ObjectType type) const {
  for (const Uid member : members) {
    if (type_of(member) != type) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("'{}' refers to {} {}, which does not exist", object.name, name_of(type), member));
    }
  }
  std::sort(members.begin(), members.end());
  members.erase(std::unique(members.begin(), members.end()), members.end());
  return {};
}

// The object has been claimed and checked.
template <typename T>
Uid Topology::insert(std::vector<T>& objects, T object, ObjectType type) {
  const Uid uid = object.uid;
  names_.emplace(object.name, uid);
  next_uid_ = std::max(next_uid_, uid + 1);
  const bool last = objects.empty() || objects.back().uid < uid;
  const auto place = static_cast<std::uint32_t>(by_uid(objects, uid) - objects.begin());
  objects.insert(objects.begin() + place, std::move(object));
  if (!last) {
    rebuild_index();
    return uid;
  }
  slots_.emplace(uid, Slot{type, place});
  if (type == ObjectType::kInitiator) adjacency_.links_of_initiator.emplace_back();
  if (type == ObjectType::kLink) index_link(place);
  if (type == ObjectType::kBridge) index_bridge(place);
  return uid;
}

Result<Uid> Topology::add(Target target) {
  if (auto claimed = claim(target, ObjectType::kTarget); !claimed) return claimed;
  return insert(targets_, std::move(target), ObjectType::kTarget);
}

Result<Uid> Topology::add(Initiator initiator) {
  if (auto claimed = claim(initiator, ObjectType::kInitiator); !claimed) return claimed;
  return insert(initiators_, std::move(initiator), ObjectType::kInitiator);
}

Result<Uid> Topology::add(Link link) {
  if (auto claimed = claim(link, ObjectType::kLink); !claimed) return claimed;
  if (auto ok = check_members(link, link.initiators, ObjectType::kInitiator); !ok) return tl::unexpected(ok.error());
  if (auto ok = check_members(link, link.targets, ObjectType::kTarget); !ok) return tl::unexpected(ok.error());
  return insert(links_, std::move(link), ObjectType::kLink);
}

Result<Uid> Topology::add(Bridge bridge) {
  if (auto claimed = claim(bridge, ObjectType::kBridge); !claimed) return claimed;
  std::vector<Uid> ends = {bridge.from, bridge.to};
  if (auto ok = check_members(bridge, ends, ObjectType::kLink); !ok) return tl::unexpected(ok.error());
  if (bridge.from == bridge.to) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("bridge '{}' joins link {} to itself", bridge.name, bridge.to));
  }
  if (auto ok = check_members(bridge, bridge.initiators, ObjectType::kInitiator); !ok) {
    return tl::unexpected(ok.error());
  }
  return insert(bridges_, std::move(bridge), ObjectType::kBridge);
}

Result<void> Topology::remove(Uid uid) {
  const auto type = type_of(uid);
  if (!type) return fail(ErrorCode::kInvalidArgument, fmt::format("there is no object with uid {}", uid));
  names_.erase(object(uid)->name);
  switch (*type) {
    case ObjectType::kTarget:
      targets_.erase(by_uid(targets_, uid));
      for (Link& link : links_) forget(link.targets, uid);
      break;
    case ObjectType::kInitiator:
      initiators_.erase(by_uid(initiators_, uid));
      for (Link& link : links_) forget(link.initiators, uid);
      for (Bridge& bridge : bridges_) forget(bridge.initiators, uid);
      break;
    case ObjectType::kLink:
      links_.erase(by_uid(links_, uid));
      for (const Bridge& bridge : bridges_) {
        if (bridge.from == uid || bridge.to == uid) names_.erase(bridge.name);
      }
      std::erase_if(bridges_, [uid](const Bridge& bridge) { return bridge.from == uid || bridge.to == uid; });
      break;
    case ObjectType::kBridge:
      bridges_.erase(by_uid(bridges_, uid));
      break;
  }
  rebuild_index();
  return {};
}

void Topology::index_link(std::uint32_t position) {
  const Link& link = links_[position];
  adjacency_.targets_of_link.emplace_back();
  adjacency_.crossings_of_link.emplace_back();
  auto& targets = adjacency_.targets_of_link.back();
  targets.reserve(link.targets.size());
  for (const Uid target : link.targets) targets.push_back(slots_.at(target).position);
  for (const Uid initiator : link.initiators) {
    adjacency_.links_of_initiator[slots_.at(initiator).position].push_back(position);
  }
}

void Topology::index_bridge(std::uint32_t position) {
  const Bridge& bridge = bridges_[position];
  const std::uint32_t from = slots_.at(bridge.from).position;
  const std::uint32_t to = slots_.at(bridge.to).position;
  adjacency_.crossings_of_link[from].push_back({position, to});
  if (bridge.both_ways) adjacency_.crossings_of_link[to].push_back({position, from});
}

void Topology::rebuild_index() {
  slots_.clear();
  adjacency_ = {};
  const auto number = [this](const auto& objects, ObjectType type) {
    for (std::uint32_t i = 0; i < objects.size(); ++i) slots_.emplace(objects[i].uid, Slot{type, i});
  };
  number(targets_, ObjectType::kTarget);
  number(initiators_, ObjectType::kInitiator);
  number(links_, ObjectType::kLink);
  number(bridges_, ObjectType::kBridge);
  adjacency_.links_of_initiator.resize(initiators_.size());
  for (std::uint32_t i = 0; i < links_.size(); ++i) index_link(i);
  for (std::uint32_t i = 0; i < bridges_.size(); ++i) index_bridge(i);
}

std::optional<ObjectType> Topology::type_of(Uid uid) const noexcept {
  const auto slot = slots_.find(uid);
  return slot == slots_.end() ? std::nullopt : std::optional(slot->second.type);
}

std::optional<std::uint32_t> Topology::position(Uid uid) const noexcept {
  const auto slot = slots_.find(uid);
  return slot == slots_.end() ? std::nullopt : std::optional(slot->second.position);
}

const Target* Topology::target(Uid uid) const noexcept {
  return type_of(uid) == ObjectType::kTarget ? &targets_[*position(uid)] : nullptr;
}
const Initiator* Topology::initiator(Uid uid) const noexcept {
  return type_of(uid) == ObjectType::kInitiator ? &initiators_[*position(uid)] : nullptr;
}
const Link* Topology::link(Uid uid) const noexcept {
  return type_of(uid) == ObjectType::kLink ? &links_[*position(uid)] : nullptr;
}
const Bridge* Topology::bridge(Uid uid) const noexcept {
  return type_of(uid) == ObjectType::kBridge ? &bridges_[*position(uid)] : nullptr;
}

const Object* Topology::object(Uid uid) const noexcept {
  const auto type = type_of(uid);
  if (!type) return nullptr;
  switch (*type) {
    case ObjectType::kTarget:
      return target(uid);
    case ObjectType::kInitiator:
      return initiator(uid);
    case ObjectType::kLink:
      return link(uid);
    case ObjectType::kBridge:
      break;
  }
  return bridge(uid);
}

const Object* Topology::find(std::string_view name) const noexcept {
  const auto found = names_.find(name);
  return found == names_.end() ? nullptr : object(found->second);
}

const Target* Topology::target_of_node(std::int32_t node) const noexcept {
  const auto found = std::find_if(targets_.begin(), targets_.end(), [node](const Target& t) { return t.node == node; });
  return node < 0 || found == targets_.end() ? nullptr : &*found;
}

const Initiator* Topology::initiator_of_cpu(std::uint32_t cpu) const noexcept {
  const auto found = std::find_if(initiators_.begin(), initiators_.end(), [cpu](const Initiator& i) {
    return i.kind == InitiatorKind::kCpu && i.cpus.contains(cpu);
  });
  return found == initiators_.end() ? nullptr : &*found;
}

const Target* Topology::target_of_device(std::string_view device) const noexcept {
  const auto found =
      std::find_if(targets_.begin(), targets_.end(), [device](const Target& t) { return t.device == device; });
  return device.empty() || found == targets_.end() ? nullptr : &*found;
}

const Initiator* Topology::initiator_of_device(std::string_view device) const noexcept {
  const auto found =
      std::find_if(initiators_.begin(), initiators_.end(), [device](const Initiator& i) { return i.device == device; });
  return device.empty() || found == initiators_.end() ? nullptr : &*found;
}

Result<void> Topology::set_free(Uid uid, std::optional<std::uint64_t> bytes) {
  if (target(uid) == nullptr)
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} is not the uid of a target", uid));
  targets_[*position(uid)].free = bytes;
  return {};
}

Result<void> Topology::set_online(Uid uid, bool online) {
  if (target(uid) == nullptr)
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} is not the uid of a target", uid));
  targets_[*position(uid)].online = online;
  return {};
}

Result<void> Topology::set_figure(Uid uid, Property property, Value value) {
  if (link(uid) != nullptr) {
    links_[*position(uid)].properties.set(property, value);
  } else if (bridge(uid) != nullptr) {
    bridges_[*position(uid)].properties.set(property, value);
  } else {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} is not the uid of a link or a bridge", uid));
  }
  return {};
}

void Topology::reserve_uids(Uid first_free) noexcept {
  next_uid_ = std::max(next_uid_, first_free);
}

std::string_view name_of(ObjectType type) {
  return kTypeNames[static_cast<std::size_t>(type)];
}
std::string_view name_of(MemoryKind kind) {
  return kMemoryKindNames[static_cast<std::size_t>(kind)];
}
std::string_view name_of(InitiatorKind kind) {
  return kInitiatorKindNames[static_cast<std::size_t>(kind)];
}
std::optional<MemoryKind> memory_kind_of(std::string_view name) {
  return enum_of<MemoryKind>(kMemoryKindNames, name);
}
std::optional<InitiatorKind> initiator_kind_of(std::string_view name) {
  return enum_of<InitiatorKind>(kInitiatorKindNames, name);
}

std::string entry_name(const Object& object, ObjectType type) {
  return fmt::format("v{}-{}-{}", object.version, object.uid, name_of(type));
}

}  // namespace mirrorcl::hms
