// SPDX-License-Identifier: Apache-2.0
// What a decision costs the mirror's service thread: the policy lookup and decide(), as it calls them for a fault.
#include <benchmark/benchmark.h>

#include <random>

#include "hms/placement.h"
#include "hms/reference_machine.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kBase = 0x7f00'0000'0000;

struct Machine {
  Topology topology = reference_machine();
  PlacementMap::Pointer map{nullptr, {nullptr}};
  std::vector<std::uint64_t> room;

  Machine() {
    PlacementRequester requesters[] = {{uid("cx00"), true}, {uid("gpu0"), false}};
    map = std::move(*PlacementMap::create(topology, requesters, std::pmr::new_delete_resource()));
    room.assign(map->target_count(), 1'000'000);
  }
  Uid uid(const char* name) const { return topology.find(name)->uid; }
  PlacementRequest request(const Policy* policy) const {
    return {.requester = 1, .home = map->target(uid("ddr0")), .policy = policy, .map = map.get(), .room = room};
  }
};

void decide_without_policy(benchmark::State& state) {
  Machine machine;
  PlacementRequest request = machine.request(nullptr);
  for (auto _ : state) {
    benchmark::DoNotOptimize(request);
    Decision decision = decide(request);
    benchmark::DoNotOptimize(decision);
  }
}
BENCHMARK(decide_without_policy);

// range(0) targets are listed, the last of which has room.
void decide_bound(benchmark::State& state) {
  Machine machine;
  std::vector<Uid> bind(static_cast<std::size_t>(state.range(0)), machine.uid("gpu0-hbm"));
  bind.back() = machine.uid("gpu0-gddr");
  machine.room[machine.map->target(machine.uid("gpu0-hbm"))] = 0;
  Policy policy{.bind = bind};
  PlacementRequest request = machine.request(&policy);
  for (auto _ : state) {
    benchmark::DoNotOptimize(request);
    Decision decision = decide(request);
    benchmark::DoNotOptimize(decision);
  }
}
BENCHMARK(decide_bound)->Arg(1)->Arg(10)->Arg(100);

// With range(0) ranges in the table, at random addresses: lookup and decision.
void lookup_and_decide(benchmark::State& state) {
  Machine machine;
  auto table = std::move(*PolicyTable::create(std::pmr::new_delete_resource()));
  std::uint64_t ranges = static_cast<std::uint64_t>(state.range(0));
  Uid targets[] = {machine.uid("gpu0-hbm"), machine.uid("gpu0-gddr")};
  for (std::uint64_t i = 0; i < ranges; ++i) {
    PolicyChange change;
    change.bind = std::span<const Uid>(targets);
    if (table->change({kBase + 2 * i * kPage, kBase + (2 * i + 1) * kPage}, change) != 0) state.SkipWithError("full");
  }
  std::minstd_rand random(1);
  for (auto _ : state) {
    PolicyReader reader(*table);
    auto found = reader.find(kBase + random() % (2 * ranges) * kPage);
    PlacementRequest request = machine.request(&found.policy);
    Decision decision = decide(request);
    benchmark::DoNotOptimize(decision);
  }
}
BENCHMARK(lookup_and_decide)->Arg(1)->Arg(100)->Arg(10'000);

// One change of policy by a thread that has the table to itself.
void change_policy(benchmark::State& state) {
  auto table = std::move(*PolicyTable::create(std::pmr::new_delete_resource()));
  std::uint64_t ranges = static_cast<std::uint64_t>(state.range(0));
  for (std::uint64_t i = 0; i < ranges; ++i) {
    PolicyChange change;
    change.preferred = 1;
    if (table->change({kBase + 2 * i * kPage, kBase + (2 * i + 1) * kPage}, change) != 0) state.SkipWithError("full");
  }
  std::minstd_rand random(1);
  for (auto _ : state) {
    std::uint64_t start = kBase + random() % ranges * 2 * kPage;
    PolicyChange change;
    change.preferred = static_cast<Uid>(random() % 8);
    benchmark::DoNotOptimize(table->change({start, start + kPage}, change));
  }
}
BENCHMARK(change_policy)->Arg(1)->Arg(10'000);

}  // namespace
}  // namespace mirrorcl::hms

BENCHMARK_MAIN();
