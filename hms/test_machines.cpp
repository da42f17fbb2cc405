// SPDX-License-Identifier: Apache-2.0
#include "hms/test_machines.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "hms/cells.h"
#include "hms/query.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uint32_t kNodesPerPackage = 8;
constexpr std::uint32_t kCpusPerNode = 4;

PathFigures cell(std::uint64_t bandwidth, std::uint64_t latency) {
  PathFigures figures;
  figures.properties.set(Property::kBandwidth, {bandwidth, Source::kFirmware});
  figures.properties.set(Property::kLatency, {latency, Source::kFirmware});
  return figures;
}

}  // namespace

Topology many_nodes(std::uint32_t nodes) {
  Topology machine;
  std::vector<Uid> initiators, targets;
  for (std::uint32_t n = 0; n < nodes; ++n) {
    Target target;
    target.name = fmt::format("node{}", n);
    target.node = static_cast<std::int32_t>(n);
    target.package = static_cast<std::int32_t>(n / kNodesPerPackage);
    target.size = std::uint64_t{64} << 30;
    target.cpus = IdSet::range(n * kCpusPerNode, n * kCpusPerNode + kCpusPerNode - 1);
    Initiator initiator;
    initiator.name = fmt::format("cpu{}", target.cpus.to_string());
    initiator.node = target.node;
    initiator.package = target.package;
    initiator.cpus = target.cpus;
    targets.push_back(*machine.add(target));
    initiators.push_back(*machine.add(initiator));
  }
  CellTable cells(nodes, nodes);
  const PathFigures own = cell(100000, 80), near = cell(50000, 120), far = cell(20000, 200);
  for (std::uint32_t i = 0; i < nodes; ++i) {
    for (std::uint32_t t = 0; t < nodes; ++t) {
      cells.set(i, t, i == t ? own : i / kNodesPerPackage == t / kNodesPerPackage ? near : far);
    }
  }
  static_cast<void>(*cells.add_links(machine, initiators, targets));
  return machine;
}

std::string mutated(std::string text, std::mt19937& random) {
  static constexpr std::array<const char*, 8> kExtremes = {
      "-1", "18446744073709551615", "4294967295", "1048577", "1e999", "\"\"", "null", "[]"};
  for (std::uint32_t n = 1 + random() % 4; n > 0 && !text.empty(); --n) {
    const std::size_t at = random() % text.size();
    const std::size_t size = std::min<std::size_t>(1 + random() % 40, text.size() - at);
    switch (random() % 5) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(at, size);
        break;
      case 2:
        text.insert(at, text.substr(at, size));
        break;
      case 3: {
        const std::string piece = text.substr(at, size);
        text.insert(random() % text.size(), piece);
        break;
      }
      default: {
        const std::size_t digit = text.find_first_of("0123456789", at);
        if (digit == std::string::npos) break;
        const std::size_t end = text.find_first_not_of("0123456789", digit);
        text.replace(digit, end == std::string::npos ? end : end - digit, kExtremes[random() % kExtremes.size()]);
        break;
      }
    }
  }
  return text;
}

void exercise(const Topology& topology) {
  std::size_t left = 8;  // enough to get everywhere, and bounded whatever the file's size
  for (const Initiator& initiator : topology.initiators()) {
    if (left-- == 0) break;
    for (const Rank rank : {Rank::kBandwidth, Rank::kLatency, Rank::kCapacity, Rank::kFreeSpace}) {
      static_cast<void>(best_targets(topology, Query{.initiators = {initiator.uid}, .rank = rank}));
    }
    for (const Target& target : topology.targets().first(std::min<std::size_t>(4, topology.targets().size()))) {
      static_cast<void>(paths(topology, initiator.uid, target.uid, 20));
    }
  }
}

}  // namespace mirrorcl::hms
