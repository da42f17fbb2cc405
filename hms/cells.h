// SPDX-License-Identifier: Apache-2.0
// From a table of figures, a cell for each initiator and target, to few links.
//
// Firmware describes a machine by cells: 1,024 nodes make a million. Cells of equal figures become one link wherever
// the model's rule "every initiator on a link reaches every target on it" allows. A link may also cover cells that a
// better link covers: the pair's figures are the best link's, so nothing becomes wrong, and "everything remote" is one
// link.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "hms/api.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

class HMS_API CellTable {
 public:
  CellTable(std::size_t initiators, std::size_t targets);

  // Initiator number `row` reaches target number `column` with `figures`. Cells that are not set are not reached.
  void set(std::size_t row, std::size_t column, const PathFigures& figures);

  // Adds to `topology` the links that stand for the cells; row n is initiators[n], column n is targets[n]. Returns
  // their number.
  Result<std::size_t> add_links(Topology& topology, std::span<const Uid> initiators,
                                std::span<const Uid> targets) const;

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  struct Group {  // a link to be
    std::vector<std::uint32_t> rows;
    std::vector<std::uint32_t> columns;
  };

  std::uint32_t class_at(std::size_t row, std::size_t column) const { return classes_[row * columns_ + column]; }
  std::vector<Group> groups_of(std::uint32_t figures, const std::vector<bool>& covered_by_better) const;

  std::size_t rows_;
  std::size_t columns_;
  std::vector<std::uint32_t> classes_;  // by row and column: an index into figures_, or kNone
  std::vector<PathFigures> figures_;
  std::unordered_map<std::size_t, std::vector<std::uint32_t>> classes_by_hash_;
};

}  // namespace mirrorcl::hms
