// SPDX-License-Identifier: Apache-2.0
// Questions to a topology: which memory is best for whom, and over which paths.
//
//   Query query{.initiators = {gpu}, .rank = Rank::kBandwidth};
//   const auto best = best_targets(topology, query);           // best first
//   if (best && !best->empty()) place(best->front().target);
//
// Everything here is a pure function of the topology. Objects of an unknown version are as good as absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "hms/api.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

enum class Rank : std::uint8_t {
  kBandwidth,  // more is better
  kLatency,    // less is better
  kCapacity,   // the target's size, more is better
  kFreeSpace,  // what was free when last looked at, more is better
};

// How near a target is to the initiators of a query: to the nearest of them.
enum class Locality : std::uint8_t {
  kLocal,    // its own memory: the same device, or CPUs that the target is local to
  kPackage,  // of the same CPU package
  kRemote,
};

struct Query {
  std::vector<Uid> initiators = {};  // a target counts only if all of them reach it, with the worst of their figures
  Rank rank = Rank::kBandwidth;
  Direction direction = Direction::kBoth;
  std::uint64_t min_free = 0;    // bytes; leaves out targets known to have less free
  bool coherent = false;         // only over paths that are coherent
  bool atomic = false;           // only over paths on which atomics work
  bool include_offline = false;  // also targets in which nothing can be allocated now
  std::size_t limit = SIZE_MAX;  // at most so many answers
};

struct Candidate {
  Uid target = kNoUid;
  std::optional<Value> bandwidth;  // MiB/s, of the path that the rank prefers; nothing: unknown
  std::optional<Value> latency;    // ns, of the same path
  bool coherent = true;
  bool atomic = true;
  Locality locality = Locality::kRemote;
  std::uint32_t bridges = 0;  // bridges on the longest of the paths
};

// The targets that all initiators reach, best first. Ties go to the nearer one, then to the better other figure, fewer
// bridges, the lower uid. Without the figure asked for a target comes last. An empty answer means that there is no such
// target. kInvalidArgument: no initiator is named, or a uid is not an initiator's.
HMS_API Result<std::vector<Candidate>> best_targets(const Topology& topology, const Query& query);

// How one initiator reaches one target best, by query.rank; its initiators are ignored. Nothing if it does not.
HMS_API std::optional<Candidate> reach(const Topology& topology, Uid initiator, Uid target, const Query& query = {});

struct Path {
  std::vector<Uid> hops;  // link, bridge, link, bridge, ..., link
  PathFigures figures;
};

inline constexpr std::size_t kMaxBridges = 8;  // on one path, for all questions

// Every path from an initiator to any other object (a target, a link, another initiator's links) that visits no link
// twice, widest first, then lowest latency, then shortest. At most `limit` paths are looked for. kInvalidArgument:
// `from` is not an initiator's uid, or there is no `to`.
HMS_API Result<std::vector<Path>> paths(const Topology& topology, Uid from, Uid to, std::size_t limit = 1000);

HMS_API std::string_view name_of(Rank rank);          // "bandwidth", "latency", "capacity", "free"
HMS_API std::string_view name_of(Locality locality);  // "local", "package", "remote"
HMS_API std::optional<Rank> rank_of(std::string_view name);

}  // namespace mirrorcl::hms
