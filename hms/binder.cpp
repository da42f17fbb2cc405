// SPDX-License-Identifier: Apache-2.0
#include "hms/binder.h"

#include <errno.h>

#include <algorithm>
#include <new>

#include "base/log.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uint64_t kPageSize = HostMemory::kPageSize;
constexpr std::uint64_t kUserSpaceEnd = std::uint64_t{1} << 47;
// What is looked at together, and moves in one go.
constexpr std::uint64_t kPartSize = std::uint64_t{32} << 20;

std::uint32_t saturated(std::uint64_t count) {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(count, 0xffff'ffff));
}

// Calls visit(first, count) for each maximal run of indices below `size` for which `wanted` holds.
template <typename Wanted, typename Visit>
void for_runs(std::size_t size, const Wanted& wanted, const Visit& visit) {
  for (std::size_t first = 0; first < size; ++first) {
    if (!wanted(first)) continue;
    std::size_t end = first + 1;
    while (end < size && wanted(end)) ++end;
    visit(first, end - first);
    first = end;
  }
}

// Calls visit(part) for `range` cut at multiples of kPartSize, between blocks that devices move as a whole; ends with
// the first result that is not 0.
template <typename Visit>
int for_parts(AddressRange range, const Visit& visit) {
  for (std::uint64_t start = range.start; start < range.end;) {
    const std::uint64_t end = std::min(range.end, (start / kPartSize + 1) * kPartSize);
    if (const int error = visit(AddressRange{start, end}); error != 0) return error;
    start = end;
  }
  return 0;
}

// A policy with its own lists.
struct OwnedPolicy {
  AddressRange range;
  std::vector<Uid> bind;
  Uid preferred;
  std::vector<Uid> accessed_by;
  bool read_mostly;

  OwnedPolicy(AddressRange where, const Policy& policy)
      : range(where),
        bind(policy.bind.begin(), policy.bind.end()),
        preferred(policy.preferred),
        accessed_by(policy.accessed_by.begin(), policy.accessed_by.end()),
        read_mostly(policy.read_mostly) {}

  PolicyChange change() const { return {bind, preferred, accessed_by, read_mostly}; }
};

AddressRange intersection(AddressRange a, AddressRange b) {
  return {std::max(a.start, b.start), std::min(a.end, b.end)};
}

std::vector<OwnedPolicy> policies_in(PolicyTable& table, AddressRange range) {
  std::vector<OwnedPolicy> found;
  table.for_each(
      range, [&](AddressRange where, const Policy& policy) { found.emplace_back(intersection(where, range), policy); });
  return found;
}

}  // namespace

Binder::Binder(std::shared_ptr<const Topology> topology, PolicyTable& policies, HostMemory& host)
    : policies_(policies), host_(host), topology_(std::move(topology)) {}

void Binder::set_topology(std::shared_ptr<const Topology> topology) {
  ScopedLock lock(configuration_mutex_);
  topology_ = std::move(topology);
}

std::shared_ptr<const Topology> Binder::topology() const {
  ScopedSharedLock lock(configuration_mutex_);
  return topology_;
}

void Binder::add_device(DeviceMemory& device) {
  ScopedLock lock(configuration_mutex_);
  devices_.push_back(&device);
}

void Binder::remove_device(DeviceMemory& device) {
  ScopedLock lock(configuration_mutex_);
  std::erase(devices_, &device);
}

void Binder::before_fork() {
  configuration_mutex_.lock();
}

void Binder::after_fork_in_parent() {
  configuration_mutex_.unlock();
}

void Binder::after_fork_in_child() {
  // Locked by a thread whose number is another here. Nobody else exists.
  new (&configuration_mutex_) SharedMutex;
  devices_.clear();
  policies_.reset_in_child();
}

DeviceMemory* Binder::View::device(Uid target) const noexcept {
  auto found = std::ranges::find_if(devices, [&](const DeviceMemory* device) { return device->target() == target; });
  return found == devices.end() ? nullptr : *found;
}

int Binder::View::node(Uid target) const noexcept {
  const Target* object = device(target) == nullptr ? topology.target(target) : nullptr;
  return object == nullptr ? -1 : object->node;
}

int Binder::hbind(const hbind_params* params) {
  try {
    ScopedSharedLock lock(configuration_mutex_);
    View view{*topology_, devices_};
    HbindCall call;
    if (int error = validate(view, params, &call); error != 0) return error;
    for (const HbindCommand& command : call.commands) {
      if (int error = execute(view, call, command); error != 0) return error;
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  }
}

// --- validation

bool Binder::is_usable(const View& view, Uid target) const noexcept {
  const Target* object = view.topology.target(target);
  if (object == nullptr || !object->known() || !object->online) return false;
  return view.device(target) != nullptr || (object->node >= 0 && host_.may_use(object->node));
}

int Binder::validate(const View& view, const hbind_params* params, HbindCall* call) const {
  if (params == nullptr || params->atoms == 0 || (params->ntargets != 0 && params->targets == 0)) return -EFAULT;
  if (params->natoms == 0 || params->natoms > HBIND_MAX_ATOMS || params->ntargets > HBIND_MAX_TARGETS) return -EINVAL;
  if (params->end <= params->start || params->end > kUserSpaceEnd) return -EINVAL;
  call->range = {params->start & ~(kPageSize - 1), (params->end + kPageSize - 1) & ~(kPageSize - 1)};
  if (params->ntargets != 0) call->listed = {reinterpret_cast<const Uid*>(params->targets), params->ntargets};
  for (Uid target : call->listed) {
    if (!is_usable(view, target)) {
      log_info("hbind: target {} is skipped: this process has no such memory", target);
    } else if (std::ranges::find(call->usable, target) == call->usable.end()) {
      call->usable.push_back(target);
    }
  }
  std::span<std::uint32_t> atoms(reinterpret_cast<std::uint32_t*>(params->atoms), params->natoms);
  while (!atoms.empty()) {
    std::uint32_t dwords = HBIND_ATOM_GET_DWORDS(atoms[0]);
    if (dwords > atoms.size() - 1) return -EINVAL;
    call->commands.push_back({HBIND_ATOM_GET_CMD(atoms[0]), atoms.subspan(1, dwords)});
    if (int error = validate_command(view, *call, call->commands.back()); error != 0) {
      log_info("hbind: command {} with {} extra dwords is refused: error {}", call->commands.back().id, dwords, -error);
      return error;
    }
    atoms = atoms.subspan(1 + dwords);
  }
  return host_.is_mapped(call->range) ? 0 : -EFAULT;
}

int Binder::validate_command(const View& view, const HbindCall& call, const HbindCommand& command) const {
  auto takes = [&](std::size_t dwords) { return command.dwords.size() == dwords ? 0 : -EINVAL; };
  auto takes_and_needs_target = [&](std::size_t dwords) {
    return command.dwords.size() != dwords ? -EINVAL : call.usable.empty() ? -ENODEV : 0;
  };
  switch (command.id) {
    case HBIND_CMD_DEFAULT:
      return takes(0);
    case HBIND_CMD_BIND:
    case HBIND_CMD_PREFETCH:
      return takes_and_needs_target(0);
    case HBIND_CMD_MIGRATE:
      return takes_and_needs_target(1);
    case HBIND_CMD_PREFERRED:
      return call.listed.empty() ? takes(0) : takes_and_needs_target(0);
    case HBIND_CMD_ACCESSED_BY: {
      auto known = [&](Uid uid) { return view.topology.initiator(uid) != nullptr; };
      return command.dwords.empty() || std::ranges::any_of(command.dwords, known) ? 0 : -ENODEV;
    }
    case HBIND_CMD_READ_MOSTLY:
      return command.dwords.size() == 1 && command.dwords[0] <= 1 ? 0 : -EINVAL;
    case HBIND_CMD_QUERY_RESIDENCY:
      return takes(call.listed.size() + 2);
    default:
      return -EINVAL;
  }
}

// --- policies

int Binder::execute(const View& view, const HbindCall& call, const HbindCommand& command) {
  auto change = [&](ForKernel for_kernel, const PolicyChange& wanted) {
    return change_policy(view, call.range, for_kernel, [&] { return policies_.change(call.range, wanted); });
  };
  PolicyChange wanted;
  switch (command.id) {
    case HBIND_CMD_DEFAULT:
      return change_policy(view, call.range, ForKernel::kYes, [&] {
        policies_.drop(call.range);
        return 0;
      });
    case HBIND_CMD_BIND:
      return change(ForKernel::kYes, {call.usable, kNoUid, std::span<const Uid>(), false});
    case HBIND_CMD_MIGRATE:
      command.dwords[0] = saturated(migrate(view, call, Untouched::kSkip));
      return 0;
    case HBIND_CMD_PREFETCH:
      migrate(view, call, Untouched::kAllocate);
      return 0;
    case HBIND_CMD_PREFERRED:
      wanted.preferred = call.usable.empty() ? kNoUid : call.usable.front();
      return change(ForKernel::kYes, wanted);
    case HBIND_CMD_ACCESSED_BY: {
      std::vector<Uid> initiators;
      std::ranges::copy_if(command.dwords, std::back_inserter(initiators),
                           [&](Uid uid) { return view.topology.initiator(uid) != nullptr; });
      wanted.accessed_by = initiators;
      return change(ForKernel::kNo, wanted);
    }
    case HBIND_CMD_READ_MOSTLY:
      wanted.read_mostly = command.dwords[0] == 1;
      return change(ForKernel::kNo, wanted);
    default:
      return query_residency(view, call, command.dwords);
  }
}

// Makes the change in the table and in the kernel, or neither.
template <typename Change>
int Binder::change_policy(const View& view, AddressRange range, ForKernel for_kernel, const Change& change) {
  for (DeviceMemory* device : view.devices) device->settle();
  ScopedLock lock(policy_mutex_);
  std::vector<OwnedPolicy> before = policies_in(policies_, range);
  int error = change();
  if (error == 0 && for_kernel == ForKernel::kYes) {
    bool kernel_changed = false;
    error = tell_kernel(view, range, &kernel_changed);
    if (error != 0) {
      policies_.drop(range);
      for (const OwnedPolicy& policy : before) policies_.change(policy.range, policy.change());
      if (kernel_changed && tell_kernel(view, range, &kernel_changed) != 0) {
        log_warning("the kernel's memory policy of {:#x}-{:#x} is not what it was", range.start, range.end);
      }
    }
  }
  if (error == 0) {
    for (DeviceMemory* device : view.devices) device->policy_changed(range);
  }
  return error;
}

Binder::HostNodes Binder::host_nodes(const View& view, const Policy& policy) {
  HostNodes result{HostPolicy::Mode::kDefault, {}};
  for (Uid target : policy.bind) {
    if (int node = view.node(target); node >= 0) result.nodes.push_back(node);
  }
  if (!result.nodes.empty()) {
    result.mode = HostPolicy::Mode::kBind;
  } else if (int node = view.node(policy.preferred); policy.bind.empty() && node >= 0) {
    result = {HostPolicy::Mode::kPrefer, {node}};
  }
  return result;
}

// `changed`: set once any of it has been told.
int Binder::tell_kernel(const View& view, AddressRange range, bool* changed) {
  struct Piece {
    AddressRange range;
    HostNodes nodes;
  };
  std::vector<Piece> pieces;
  std::uint64_t done = range.start;
  auto add = [&](AddressRange where, HostNodes nodes) {
    if (where.start < where.end) pieces.push_back({where, std::move(nodes)});
  };
  policies_.for_each(range, [&](AddressRange whole, const Policy& policy) {
    AddressRange where = intersection(whole, range);
    add({done, where.start}, {HostPolicy::Mode::kDefault, {}});
    add(where, host_nodes(view, policy));
    done = where.end;
  });
  add({done, range.end}, {HostPolicy::Mode::kDefault, {}});
  for (const Piece& piece : pieces) {
    if (int error = host_.set_policy(piece.range, {piece.nodes.mode, piece.nodes.nodes}); error != 0) return error;
    *changed = true;
  }
  return 0;
}

// --- where pages live

int Binder::places_of(const View& view, AddressRange range, std::span<Uid> places) const {
  std::vector<int> nodes(places.size());
  if (int error = host_.nodes_of(range.start, nodes); error != 0) return error;
  int last_node = -1;
  Uid last_target = kNoUid;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i] != last_node) {
      const Target* target = nodes[i] < 0 ? nullptr : view.topology.target_of_node(nodes[i]);
      last_target = target == nullptr ? kNoUid : target->uid;
      last_node = nodes[i];
    }
    places[i] = last_target;
  }
  for (const DeviceMemory* device : view.devices) device->residency(range, places);
  return 0;
}

int Binder::residency(AddressRange range, std::span<Uid> places) const {
  try {
    ScopedSharedLock lock(configuration_mutex_);
    View view{*topology_, devices_};
    return for_parts(range, [&](AddressRange part) {
      return places_of(view, part, places.subspan((part.start - range.start) / kPageSize, part.size() / kPageSize));
    });
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  }
}

int Binder::query_residency(const View& view, const HbindCall& call, std::span<std::uint32_t> counts) const {
  std::vector<std::uint64_t> pages(counts.size(), 0);
  std::vector<Uid> places;
  std::size_t others = call.listed.size();
  int error = for_parts(call.range, [&](AddressRange part) {
    places.resize(part.size() / kPageSize);
    if (int failed = places_of(view, part, places); failed != 0) return failed;
    for (std::size_t i = 0; i < places.size();) {
      std::size_t end = i + 1;
      while (end < places.size() && places[end] == places[i]) ++end;
      bool found = false;
      for (std::size_t t = 0; t < call.listed.size(); ++t) {
        if (call.listed[t] != places[i] || places[i] == kNoUid) continue;
        pages[t] += end - i;
        found = true;
      }
      if (!found) pages[places[i] == kNoUid ? others + 1 : others] += end - i;
      i = end;
    }
    return 0;
  });
  if (error != 0) return error;
  std::ranges::transform(pages, counts.begin(), saturated);
  return 0;
}

// --- migration

// `places`: where the pages of `run` live; looked up again if that changes on the way. True: they may have moved since.
bool Binder::move_run(const View& view, AddressRange run, std::span<Uid> places, Uid target, Untouched untouched) {
  if (DeviceMemory* device = view.device(target); device != nullptr) {
    if (int error = device->move_in(run, untouched); error != 0) {
      log_debug("hbind: {:#x}-{:#x} cannot be moved to target {}: error {}", run.start, run.end, target, -error);
    }
    return true;
  }
  bool have_moved = false;
  for (DeviceMemory* device : view.devices) {
    if (std::ranges::find(places, device->target()) == places.end()) continue;
    device->move_out(run);
    have_moved = true;
  }
  if (have_moved && places_of(view, run, places) != 0) return true;  // unmapped meanwhile
  bool moves_on = false;
  // What came from a device lies on the target already, most likely.
  const auto is_elsewhere = [&](std::size_t i) { return places[i] != target && places[i] != kNoUid; };
  for_runs(places.size(), is_elsewhere, [&](std::size_t first, std::size_t count) {
    const AddressRange rest{run.start + first * kPageSize, run.start + (first + count) * kPageSize};
    moves_on = true;
    if (int error = host_.move(rest, view.node(target)); error != 0) {
      log_debug("hbind: {:#x}-{:#x} cannot be moved to node {}: error {}", rest.start, rest.end, view.node(target),
                -error);
    }
  });
  return moves_on;
}

// The number of pages that live elsewhere than before, as seen afterwards.
std::uint64_t Binder::migrate(const View& view, const HbindCall& call, Untouched untouched) {
  std::uint64_t moved = 0;
  std::vector<Uid> before;
  std::vector<Uid> places;
  for_parts(call.range, [&](AddressRange part) {
    before.resize(part.size() / kPageSize);
    if (places_of(view, part, before) != 0) return 0;  // unmapped meanwhile
    places = before;
    for (std::size_t t = 0; t < call.usable.size(); ++t) {
      bool allocates = untouched == Untouched::kAllocate && view.device(call.usable[t]) != nullptr;
      auto settled = std::span(call.usable).first(t + 1);
      auto wants_to_move = [&](std::size_t i) {
        // Pages that are there already may still lack a mapping of the device.
        if (places[i] == kNoUid || places[i] == call.usable[t]) return allocates;
        return std::ranges::find(settled, places[i]) == settled.end();
      };
      bool outdated = false;
      for_runs(places.size(), wants_to_move, [&](std::size_t first, std::size_t count) {
        AddressRange run{part.start + first * kPageSize, part.start + (first + count) * kPageSize};
        if (move_run(view, run, std::span(places).subspan(first, count), call.usable[t], untouched)) outdated = true;
      });
      if (outdated && places_of(view, part, places) != 0) return 0;
    }
    for (std::size_t i = 0; i < places.size(); ++i) {
      bool has_moved = before[i] != kNoUid && places[i] != kNoUid && before[i] != places[i];
      moved += has_moved ? 1 : 0;
    }
    return 0;
  });
  return moved;
}

}  // namespace mirrorcl::hms
