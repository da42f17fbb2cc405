// SPDX-License-Identifier: Apache-2.0
// Where allocations go, on made-up machines: two devices beside the nodes of a two-node machine.
#include "svm/allocation_places.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace mirrorcl::svm {
namespace {

using hms::Uid;
using Outcome = AllocationPlaces::Outcome;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr Uid kUnknown = 4'000'000'000;

class Machine {
 public:
  // `far_bandwidth`: of both devices to node 1, in MiB/s; their own memory and node 0 have 20,000.
  explicit Machine(std::uint64_t far_bandwidth = 10'000) {
    for (int node = 0; node < 2; ++node) {
      hms::Target memory;
      memory.name = "node" + std::to_string(node);
      memory.node = node;
      memory.size = 1024 * kMiB;
      nodes_.push_back(*machine_.add(memory));
    }
    hms::Target foreign;
    foreign.name = "gpu-memory";
    foreign.kind = hms::MemoryKind::kDevice;
    foreign.device = "gpu";
    foreign_ = *machine_.add(foreign);
    hms::Initiator cpus;
    cpus.name = "cpus";
    const Uid threads = *machine_.add(cpus);
    for (int i = 0; i < 2; ++i) {
      const std::string name = "device" + std::to_string(i);
      hms::Target memory;
      memory.name = name + "-memory";
      memory.kind = hms::MemoryKind::kDevice;
      memory.device = name;
      memory.size = 256 * kMiB;
      hms::Initiator device;
      device.name = name;
      device.kind = hms::InitiatorKind::kDevice;
      device.device = name;
      const Uid initiator = *machine_.add(device);
      devices_.push_back({initiator, *machine_.add(memory)});
      link({initiator, threads}, devices_.back().target, 20'000);
      link({initiator}, nodes_[0], 20'000);
      link({initiator}, nodes_[1], far_bandwidth);
    }
    link({threads}, nodes_[0], 20'000);
    for (std::uint32_t i = 0; i < 2; ++i) free[memory_of_device(i)] = 256 * kMiB;
    for (int node = 0; node < 2; ++node) free[memory_of_node(node)] = 1024 * kMiB;
  }

  AllocationPlaces::Answer ask(std::uint32_t device, std::uint64_t bytes, std::vector<Uid> targets = {}) {
    if (!places_) places_ = std::move(*AllocationPlaces::create(machine_, devices_));
    return places_->ask({device, bytes, targets}, [this](Place place) -> std::optional<std::uint64_t> {
      const auto found = free.find(place);
      return found == free.end() ? std::nullopt : std::optional(found->second);
    });
  }
  const AllocationPlaces& places() { return (void)ask(0, 1), *places_; }

  Uid device(std::size_t i) const { return devices_[i].target; }
  Uid node(std::size_t i) const { return nodes_[i]; }
  Uid foreign() const { return foreign_; }

  std::map<Place, std::uint64_t> free;  // bytes; others do not exist for this process

 private:
  void link(std::vector<Uid> initiators, Uid target, std::uint64_t bandwidth) {
    hms::Link link;
    link.initiators = std::move(initiators);
    link.targets = {target};
    link.properties.set(hms::Property::kBandwidth, {bandwidth, hms::Source::kMeasured});
    ASSERT_TRUE(machine_.add(link));
  }

  hms::Topology machine_;
  std::vector<Uid> nodes_;
  std::vector<AllocationPlaces::Device> devices_;
  Uid foreign_ = hms::kNoUid;
  std::unique_ptr<AllocationPlaces> places_;
};

TEST(AllocationPlaces, WithoutAListMemoryLiesInTheDevicesOwn) {
  Machine machine;
  for (std::uint32_t device = 0; device < 2; ++device) {
    const auto answer = machine.ask(device, kMiB);
    EXPECT_EQ(answer.outcome, Outcome::kPlaced);
    EXPECT_EQ(answer.place, memory_of_device(device));
    EXPECT_EQ(answer.target, machine.device(device));
    EXPECT_EQ(answer.reason, hms::Reason::kFirstTouch);
  }
}

TEST(AllocationPlaces, WithoutAListAFullDeviceIsFull) {
  Machine machine;
  machine.free[memory_of_device(0)] = kMiB;
  EXPECT_EQ(machine.ask(0, kMiB).outcome, Outcome::kPlaced) << "the last bytes";
  EXPECT_EQ(machine.ask(0, kMiB + 1).outcome, Outcome::kFull) << "the host's memory does not count as the device's";
}

TEST(AllocationPlaces, FasterHostMemoryIsBetterAsLongAsItHasRoom) {
  Machine machine(80'000);
  EXPECT_EQ(machine.ask(0, kMiB).place, memory_of_node(1));
  machine.free[memory_of_node(1)] = 0;
  EXPECT_EQ(machine.ask(0, kMiB).place, memory_of_device(0));
}

TEST(AllocationPlaces, TheFirstListedWithRoomForAllOfItIsTaken) {
  Machine machine;
  const std::vector<Uid> list{machine.device(1), machine.node(1), machine.device(0)};
  auto answer = machine.ask(0, kMiB, list);
  EXPECT_EQ(answer.place, memory_of_device(1)) << "another device's memory is in reach";
  EXPECT_EQ(answer.reason, hms::Reason::kBound);
  machine.free[memory_of_device(1)] = kMiB - 1;
  EXPECT_EQ(machine.ask(0, kMiB, list).place, memory_of_node(1));
  machine.free[memory_of_node(1)] = kMiB - 1;
  EXPECT_EQ(machine.ask(0, kMiB, list).place, memory_of_device(0));
  machine.free[memory_of_device(0)] = kMiB - 1;
  EXPECT_EQ(machine.ask(0, kMiB, list).outcome, Outcome::kFull) << "node 0 is not listed";
  EXPECT_EQ(machine.ask(0, kMiB, {machine.node(1)}).outcome, Outcome::kFull);
}

TEST(AllocationPlaces, WhatCannotBeAllocatedInIsSkipped) {
  Machine machine;
  EXPECT_EQ(machine.ask(0, kMiB, {machine.foreign(), machine.node(0)}).place, memory_of_node(0));
  EXPECT_EQ(machine.ask(0, kMiB, {machine.foreign()}).outcome, Outcome::kUnusable);
  machine.free.erase(memory_of_node(0));
  EXPECT_EQ(machine.ask(0, kMiB, {machine.node(0)}).outcome, Outcome::kUnusable) << "forbidden to this process";
  EXPECT_EQ(machine.ask(0, kMiB, {machine.node(0), kUnknown}).outcome, Outcome::kUnknown);
}

TEST(AllocationPlaces, TargetsAndPlacesAreNamesOfEachOther) {
  Machine machine;
  for (std::uint32_t i = 0; i < 2; ++i) {
    EXPECT_EQ(machine.places().place_of(machine.device(i)), memory_of_device(i));
    EXPECT_EQ(machine.places().target_of(memory_of_device(i)), machine.device(i));
    EXPECT_EQ(machine.places().place_of(machine.node(i)), memory_of_node(static_cast<int>(i)));
    EXPECT_EQ(machine.places().target_of(memory_of_node(static_cast<int>(i))), machine.node(i));
  }
  EXPECT_EQ(machine.places().place_of(machine.foreign()), std::nullopt);
  EXPECT_EQ(machine.places().target_of(memory_of_node(7)), hms::kNoUid);
}

}  // namespace
}  // namespace mirrorcl::svm
