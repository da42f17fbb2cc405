// SPDX-License-Identifier: Apache-2.0
// Decisions on captured machines. Expected answers were worked out by hand from their figures: a page costs its
// target's latency plus 4096 bytes at its bandwidth; a move costs one reading, one writing and 2,000 ns, and must save
// 125 % of that in the 4 touches that are expected without history.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hms/load.h"
#include "hms/placement.h"

namespace mirrorcl::hms {
namespace {

class CapturedPlacement {
 public:
  // The requester is the CPU group of `cpu`.
  CapturedPlacement(const std::string& file, std::uint32_t cpu) : CapturedPlacement(file) {
    start(machine_.initiator_of_cpu(cpu));
  }
  CapturedPlacement(const std::string& file, const std::string& initiator) : CapturedPlacement(file) {
    const Object* object = machine_.find(initiator);
    start(object == nullptr ? nullptr : machine_.initiator(object->uid));
  }

  // What happens to a page of `home` ("" is a new page) that the requester can use there.
  std::string answer(const std::string& home, const History& history = {}, const Policy* policy = nullptr) const {
    if (map_ == nullptr) return "no such requester";
    PlacementRequest request;
    request.home = home.empty() ? kNoSlot : map_->target(uid(home));
    request.can_map_home = request.home != kNoSlot;
    request.history = history;
    request.policy = policy;
    request.map = map_.get();
    Decision decision = decide(request);
    std::string text = name_of(decision.action);
    return decision.target == kNoSlot ? text : text + " " + machine_.target(map_->target_uid(decision.target))->name;
  }
  Uid uid(const std::string& name) const { return machine_.find(name)->uid; }
  const PlacementMap& map() const { return *map_; }

 private:
  explicit CapturedPlacement(const std::string& file) {
    auto machine = load(std::string(HMS_TESTDATA) + "/" + file);
    EXPECT_TRUE(machine.has_value()) << machine.error().message;
    if (machine) machine_ = std::move(*machine);
  }
  void start(const Initiator* requester) {
    ASSERT_NE(requester, nullptr);
    PlacementRequester one{requester->uid, true};
    auto map = PlacementMap::create(machine_, std::span(&one, 1), std::pmr::new_delete_resource());
    ASSERT_TRUE(map.has_value());
    map_ = std::move(*map);
  }

  Topology machine_;
  PlacementMap::Pointer map_{nullptr, {nullptr}};
};

// node7 90,000 MiB/s, 120 ns: 163 ns a page. node0 22,500 and 100: 273. 4 touches save 440 ns of 2,436.
TEST(CapturedPlacement, XeonPhiUsesItsHbmWhereThatPays) {
  CapturedPlacement machine("64intel64-heteromem.xml", 0U);
  EXPECT_EQ(machine.answer(""), "move node7");
  EXPECT_EQ(machine.answer("node7"), "map node7");
  EXPECT_EQ(machine.answer("node0"), "map node0");
  // 24 touches save 2,640 ns, too little for one page; a block's pages cost 440 each.
  EXPECT_EQ(machine.answer("node0", {.faults = 5}), "map node0");
  EXPECT_EQ(machine.answer("node0", {.faults = 5, .dense_pages = 512}), "move node7");
  // Another cluster's DRAM, 11,250 and 200: 547 ns; 64 touches save 24,576.
  EXPECT_EQ(machine.answer("node3", {.faults = 100}), "move node7");
}

// node4 10,000 MiB/s and 120 ns: 510 ns a page; node1 1,000 and 100: 4,006; node6 100 and 300: 39,362.
TEST(CapturedPlacement, SlowTiersAreLeft) {
  CapturedPlacement machine("fakeheteromemtiers", 2U);
  EXPECT_EQ(machine.answer(""), "move node4");
  EXPECT_EQ(machine.answer("node1"), "move node4") << "13,984 ns saved for 6,516";
  EXPECT_EQ(machine.answer("node6"), "move node4");
  EXPECT_EQ(machine.answer("node2"), "map node2") << "900 ns a page: 1,600 saved for 3,400";
  Uid persistent = machine.uid("node6");
  Policy bound{.bind = std::span(&persistent, 1)};
  EXPECT_EQ(machine.answer("", {}, &bound), "move node6") << "the program knows best";
  EXPECT_EQ(machine.answer("node6", {}, &bound), "map node6");
  EXPECT_EQ(machine.answer("node1", {}, &bound), "move node6");
}

// The CPUs' own node has no memory; node5 131,072 MiB/s and 26 ns. The generic initiator reaches 5 and 6 at 419,431.
TEST(CapturedPlacement, WhoHasNoMemoryUsesTheNearest) {
  CapturedPlacement cpus("fakememinitiators-1np2c+1npp+gi", 0U);
  EXPECT_EQ(cpus.answer(""), "move node5");
  EXPECT_EQ(cpus.answer("node6"), "map node6") << "20 ns a page";
  CapturedPlacement generic("fakememinitiators-1np2c+1npp+gi", "node4-initiator");
  EXPECT_EQ(generic.answer(""), "move node5");
  // 7: 8,192 MiB/s and 8 ns, 484 ns a page to 17; 1,868 saved for 2,501, and 7 touches more make it worth while.
  EXPECT_EQ(generic.answer("node7"), "map node7");
  EXPECT_EQ(generic.answer("node7", {.faults = 1}), "move node5");
}

// Expanders and DAX regions that are no nodes yet cannot be placed in.
TEST(CapturedPlacement, OfflineMemoryIsNotUsed) {
  CapturedPlacement machine("cxlmem+dax.v2.xml", 0U);
  EXPECT_EQ(machine.map().target_count(), 1);
  EXPECT_EQ(machine.answer(""), "move node0");
  EXPECT_EQ(machine.answer("node0", {.faults = 1000}), "map node0");
}

}  // namespace
}  // namespace mirrorcl::hms
