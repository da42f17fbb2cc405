// SPDX-License-Identifier: Apache-2.0
#include "hms/hms.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "hms/json_file.h"
#include "hms/load.h"
#include "hms/query.h"

struct hms_topology {
  mirrorcl::hms::Topology topology;
};

namespace {

using namespace mirrorcl::hms;

// The enums of the two headers are the same numbers.
static_assert(static_cast<int>(Rank::kFreeSpace) == HMS_RANK_FREE_SPACE);
static_assert(static_cast<int>(Direction::kWrite) == HMS_WRITES);
static_assert(static_cast<int>(Source::kConfigured) == HMS_CONFIGURED);
static_assert(static_cast<int>(Locality::kRemote) == HMS_REMOTE);
static_assert(static_cast<int>(MemoryKind::kOther) == HMS_OTHER_MEMORY);
static_assert(static_cast<int>(InitiatorKind::kGeneric) == HMS_GENERIC_INITIATOR);
static_assert(kNoUid == HMS_NO_UID);

int fail_with(int error_number) {
  errno = error_number;
  return -1;
}

// What callers in C give may be none of the enum's values, and is then not to be read as one.
template <typename Enum>
unsigned number_of(const Enum& value) {
  unsigned number = 0;
  static_assert(sizeof value == sizeof number);
  std::memcpy(&number, &value, sizeof number);
  return number;
}

bool is_valid(const hms_query& query) {
  return number_of(query.rank) <= HMS_RANK_FREE_SPACE && number_of(query.direction) <= HMS_WRITES;
}

Query to_query(const hms_query& query) {
  Query result;
  result.rank = static_cast<Rank>(query.rank);
  result.direction = static_cast<Direction>(query.direction);
  result.min_free = query.min_free;
  result.coherent = query.coherent != 0;
  result.atomic = query.atomic != 0;
  result.include_offline = query.include_offline != 0;
  return result;
}

hms_candidate to_c(const Candidate& candidate) {
  const auto number = [](const std::optional<Value>& value) { return value ? value->number : HMS_UNKNOWN; };
  const auto source = [](const std::optional<Value>& value) {
    return static_cast<hms_source>(value ? value->source : Source::kAssumed);
  };
  return {.target = candidate.target,
          .locality = static_cast<hms_locality>(candidate.locality),
          .bandwidth = number(candidate.bandwidth),
          .latency = number(candidate.latency),
          .bandwidth_source = source(candidate.bandwidth),
          .latency_source = source(candidate.latency),
          .coherent = candidate.coherent ? 1 : 0,
          .atomic = candidate.atomic ? 1 : 0};
}

uint32_t uid_of(const Object* object) {
  return object != nullptr ? object->uid : HMS_NO_UID;
}

}  // namespace

hms_topology* hms_topology_load(const char* path, char* error, size_t error_size) {
  auto topology = load(path != nullptr ? path : "");
  if (topology) return new hms_topology{*std::move(topology)};
  if (error != nullptr && error_size > 0) {
    const size_t size = std::min(error_size - 1, topology.error().message.size());
    std::memcpy(error, topology.error().message.data(), size);
    error[size] = '\0';
  }
  return nullptr;
}

void hms_topology_destroy(hms_topology* topology) {
  delete topology;
}

size_t hms_target_count(const hms_topology* topology) {
  return topology->topology.targets().size();
}
size_t hms_initiator_count(const hms_topology* topology) {
  return topology->topology.initiators().size();
}

int hms_target_at(const hms_topology* topology, size_t position, hms_target* target) {
  const auto targets = topology->topology.targets();
  if (position >= targets.size()) return fail_with(EINVAL);
  const Target& from = targets[position];
  *target = {.uid = from.uid,
             .kind = static_cast<hms_memory_kind>(from.kind),
             .node = from.node,
             .online = from.online ? 1 : 0,
             .size = from.size,
             .free = from.free.value_or(HMS_UNKNOWN),
             .name = from.name.c_str(),
             .device = from.device.c_str()};
  return 0;
}

int hms_initiator_at(const hms_topology* topology, size_t position, hms_initiator* initiator) {
  const auto initiators = topology->topology.initiators();
  if (position >= initiators.size()) return fail_with(EINVAL);
  const Initiator& from = initiators[position];
  *initiator = {.uid = from.uid,
                .kind = static_cast<hms_initiator_kind>(from.kind),
                .node = from.node,
                .name = from.name.c_str(),
                .device = from.device.c_str()};
  return 0;
}

uint32_t hms_find(const hms_topology* topology, const char* name) {
  return uid_of(topology->topology.find(name));
}

uint32_t hms_target_of_node(const hms_topology* topology, int node) {
  return uid_of(topology->topology.target_of_node(node));
}

uint32_t hms_initiator_of_cpu(const hms_topology* topology, int cpu) {
  return cpu < 0 ? HMS_NO_UID : uid_of(topology->topology.initiator_of_cpu(static_cast<uint32_t>(cpu)));
}

uint32_t hms_initiator_of_device(const hms_topology* topology, const char* device) {
  return uid_of(topology->topology.initiator_of_device(device));
}

int hms_best_targets(const hms_topology* topology, const hms_query* query, const uint32_t* initiators,
                     size_t initiator_count, hms_candidate* candidates, size_t capacity) {
  const hms_query all_zero{};
  if (query == nullptr) query = &all_zero;
  if (!is_valid(*query) || (initiators == nullptr && initiator_count > 0)) return fail_with(EINVAL);
  Query question = to_query(*query);
  question.initiators.assign(initiators, initiators + initiator_count);
  const auto best = best_targets(topology->topology, question);
  if (!best) return fail_with(EINVAL);
  for (size_t i = 0; i < std::min(capacity, best->size()); ++i) candidates[i] = to_c((*best)[i]);
  return static_cast<int>(best->size());
}

int hms_reach(const hms_topology* topology, uint32_t initiator, uint32_t target, const hms_query* query,
              hms_candidate* candidate) {
  const hms_query all_zero{};
  if (query == nullptr) query = &all_zero;
  if (!is_valid(*query)) return fail_with(EINVAL);
  const auto way = reach(topology->topology, initiator, target, to_query(*query));
  if (!way) return fail_with(ENOENT);
  *candidate = to_c(*way);
  return 0;
}

char* hms_topology_json(const hms_topology* topology) {
  char* text = strdup(to_json(topology->topology).c_str());
  if (text == nullptr) errno = ENOMEM;
  return text;
}
