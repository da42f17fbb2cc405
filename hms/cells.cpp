// SPDX-License-Identifier: Apache-2.0
#include "hms/cells.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace mirrorcl::hms {
namespace {

// With more classes of figures than this hardly any cells are equal, and comparing all classes takes too long.
constexpr std::size_t kMaxComparedClasses = 64;

std::size_t hash_of(const PathFigures& figures) {
  std::size_t hash = (figures.coherent ? 2u : 0u) + (figures.atomic ? 1u : 0u);
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    const auto value = figures.properties.get(static_cast<Property>(i));
    const std::size_t number = value ? value->number * 5 + static_cast<std::size_t>(value->source) + 1 : 0;
    hash = (hash ^ number) * 0x100000001b3u;  // FNV's prime
  }
  return hash;
}

bool at_least_as_good(Property property, std::uint64_t a, std::uint64_t b) {
  const bool less_is_better = unit_of(property) == "ns" || unit_of(property) == "bytes";
  return less_is_better ? a <= b : a >= b;
}

// Whoever has a way with figures `a` never prefers one with figures `b`.
bool dominates(const PathFigures& a, const PathFigures& b) {
  if (a.coherent < b.coherent || a.atomic < b.atomic) return false;
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    const auto property = static_cast<Property>(i);
    const auto x = a.properties.figure(property);
    const auto y = b.properties.figure(property);
    if (y && !(x && at_least_as_good(property, x->number, y->number))) return false;
  }
  return true;
}

template <typename T>
std::string brief(const Topology& topology, const std::vector<Uid>& members, const T* (Topology::*get)(Uid) const) {
  const auto name = [&](Uid uid) { return (topology.*get)(uid)->name; };
  if (members.size() == 1) return name(members.front());
  if (members.size() == 2) return name(members.front()) + "+" + name(members.back());
  return name(members.front()) + ".." + name(members.back());
}

std::string free_name(const Topology& topology, const std::string& wanted) {
  if (topology.find(wanted) == nullptr) return wanted;
  for (int n = 2;; ++n) {
    std::string name = fmt::format("{} #{}", wanted, n);
    if (topology.find(name) == nullptr) return name;
  }
}

}  // namespace

CellTable::CellTable(std::size_t initiators, std::size_t targets)
    : rows_(initiators), columns_(targets), classes_(initiators * targets, kNone) {}

void CellTable::set(std::size_t row, std::size_t column, const PathFigures& figures) {
  auto& candidates = classes_by_hash_[hash_of(figures)];
  const auto found = std::find_if(candidates.begin(), candidates.end(),
                                  [&](std::uint32_t candidate) { return figures_[candidate] == figures; });
  if (found != candidates.end()) {
    classes_[row * columns_ + column] = *found;
    return;
  }
  const auto fresh = static_cast<std::uint32_t>(figures_.size());
  figures_.push_back(figures);
  candidates.push_back(fresh);
  classes_[row * columns_ + column] = fresh;
}

// Rows with the same columns of this class are one link. Columns of the classes in `covered_by_better` count as well;
// if that set is empty the links are exact.
std::vector<CellTable::Group> CellTable::groups_of(std::uint32_t figures,
                                                   const std::vector<bool>& covered_by_better) const {
  std::map<std::vector<std::uint32_t>, std::vector<std::uint32_t>> rows_by_columns;
  for (std::size_t row = 0; row < rows_; ++row) {
    std::vector<std::uint32_t> columns;
    bool any = false;
    for (std::size_t column = 0; column < columns_; ++column) {
      const std::uint32_t cell = class_at(row, column);
      if (cell == kNone) continue;
      any = any || cell == figures;
      if (cell == figures || (!covered_by_better.empty() && covered_by_better[cell])) {
        columns.push_back(static_cast<std::uint32_t>(column));
      }
    }
    if (any) rows_by_columns[std::move(columns)].push_back(static_cast<std::uint32_t>(row));
  }
  std::vector<Group> groups;
  for (auto& [columns, rows] : rows_by_columns) groups.push_back({std::move(rows), columns});
  return groups;
}

Result<std::size_t> CellTable::add_links(Topology& topology, std::span<const Uid> initiators,
                                         std::span<const Uid> targets) const {
  const std::size_t before = topology.links().size();
  const bool compare = figures_.size() <= kMaxComparedClasses;
  for (std::uint32_t figures = 0; figures < figures_.size(); ++figures) {
    std::vector<Group> groups = groups_of(figures, {});
    bool merged = false;
    if (compare && groups.size() > 1) {
      std::vector<bool> better(figures_.size());
      for (std::size_t other = 0; other < figures_.size(); ++other) {
        better[other] = other != figures && dominates(figures_[other], figures_[figures]);
      }
      std::vector<Group> fewer = groups_of(figures, better);
      merged = fewer.size() < groups.size();
      if (merged) groups = std::move(fewer);
    }
    for (const Group& group : groups) {
      Link link;
      for (const auto row : group.rows) link.initiators.push_back(initiators[row]);
      for (const auto column : group.columns) link.targets.push_back(targets[column]);
      link.name = free_name(topology, brief<Initiator>(topology, link.initiators, &Topology::initiator) + ":" +
                                          brief<Target>(topology, link.targets, &Topology::target));
      link.properties = figures_[figures].properties;
      link.coherent = figures_[figures].coherent;
      link.atomic = figures_[figures].atomic;
      link.merged = merged;
      if (auto added = topology.add(std::move(link)); !added) return tl::unexpected(added.error());
    }
  }
  return topology.links().size() - before;
}

}  // namespace mirrorcl::hms
