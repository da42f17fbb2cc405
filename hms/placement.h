// SPDX-License-Identifier: Apache-2.0
// Where a page should live: the one place that decides it. Pure functions of who asks, how, what the program wished
// for, what happened to the page before, the machine, and the room there is. They hold no state, allocate nothing,
// throw nothing, wait for nothing, and touch only what they are given; so the mirror asks them from its service thread
// for every fault.
//
//   at start:   auto map = PlacementMap::create(topology, {{cpus}, {device, .maps_host = false}}, pinned_memory);
//   at a fault: PolicyReader policies(table);
//               auto found = policies.find(address);
//               Decision decision = decide({.requester = device, .home = here, .access = Access::kRead,
//                                           .policy = &found.policy, .map = map.get(), .room = room});
//               switch (decision.action) ...
//
// Time: a table entry and a comparison for each target that the policy lists and for each that is full; some 20 ns for
// ten of them (`hms_bench`).
#pragma once

#include <cstdint>
#include <memory>
#include <memory_resource>
#include <span>
#include <vector>

#include "base/result.h"
#include "hms/api.h"
#include "hms/policy.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// Targets and requesters are named by their position in a PlacementMap here.
using Slot = std::uint16_t;
inline constexpr Slot kNoSlot = 0xffff;

struct PlacementRequester {
  Uid uid = kNoUid;
  // The mirror can give it a mapping of host memory where that lies. If not, host memory is out of its reach whatever
  // the topology says.
  bool maps_host = true;
};

// A topology as decisions need it: a table of paths from few initiators to all targets. It does not change; when the
// topology does, make another. Readable from pinned threads if its memory is pinned.
class HMS_API PlacementMap {
 public:
  struct Path {
    std::uint32_t bandwidth = 0;  // MiB/s; 0 = unknown
    std::uint32_t latency = 0;    // ns; 0 = unknown
    bool reaches = false;         // over a path that is coherent; others are of no use but for copies
    bool atomic = false;
  };

  struct Deleter {
    std::pmr::memory_resource* memory;
    void operator()(PlacementMap* map) const noexcept;
  };
  using Pointer = std::unique_ptr<PlacementMap, Deleter>;

  // The first requester stands for the application's threads. kInvalidArgument if one is no initiator,
  // kNotSupported if there are more than 65,535 of them or of targets, kOutOfHostMemory.
  static Result<Pointer> create(const Topology& topology, std::span<const PlacementRequester> requesters,
                                std::pmr::memory_resource* memory);

  static constexpr Slot kHostRequester = 0;

  Slot target_count() const noexcept { return static_cast<Slot>(targets_.size()); }
  // kNoSlot: not in the map.
  Slot target(Uid uid) const noexcept { return uid < slots_.size() && !is_requester(uid) ? slots_[uid] : kNoSlot; }
  Slot requester(Uid uid) const noexcept { return uid < slots_.size() && is_requester(uid) ? slots_[uid] : kNoSlot; }
  Uid target_uid(Slot target) const noexcept { return targets_[target].uid; }
  Uid requester_uid(Slot requester) const noexcept { return requesters_[requester]; }
  // The host memory that is NUMA node `node`; kNoSlot: it is not in the map.
  Slot host_of_node(std::int32_t node) const noexcept {
    return node >= 0 && static_cast<std::size_t>(node) < nodes_.size() ? nodes_[static_cast<std::size_t>(node)]
                                                                       : kNoSlot;
  }
  // Memory that the kernel allocates and reclaims.
  bool is_host(Slot target) const noexcept { return targets_[target].host; }
  const Path& path(Slot requester, Slot target) const noexcept {
    return paths_[std::size_t{requester} * targets_.size() + target];
  }
  // By uid: the target, if accesses of the requester work there (atomic ones, too, if `atomic`), else kNoSlot. Uids
  // beyond its end are not in the map.
  std::span<const Slot> serving(Slot requester, bool atomic) const noexcept {
    return std::span(serving_).subspan((2 * std::size_t{requester} + (atomic ? 1 : 0)) * slots_.size(), slots_.size());
  }
  // The targets that a requester reaches, best first: by bandwidth, then locality, then latency; but of those with
  // equal figures a device's own memory first.
  std::span<const Slot> best(Slot requester) const noexcept {
    return std::span(order_).subspan(std::size_t{requester} * targets_.size(), reached_[requester]);
  }
  // The host memory that is nearest to the requester, mapped or not; kNoSlot: none.
  Slot nearest_host(Slot requester) const noexcept { return nearest_host_[requester]; }
  // The targets that both reach, best for the worse served of the two first.
  std::span<const Slot> best_shared_with_host(Slot requester) const noexcept {
    return std::span(shared_order_).subspan(std::size_t{requester} * targets_.size(), shared_[requester]);
  }

 private:
  struct TargetEntry {
    Uid uid;
    bool host;
  };

  explicit PlacementMap(std::pmr::memory_resource* memory);
  ~PlacementMap() = default;
  Result<void> build(const Topology& topology, std::span<const PlacementRequester> requesters);
  Result<void> add_requester(const Topology& topology, const PlacementRequester& added);
  void order_own_first(const Topology& topology, Slot requester);
  void order_shared(Slot requester);
  bool is_requester(Uid uid) const noexcept { return kinds_[uid] != 0; }

  std::pmr::vector<TargetEntry> targets_;
  std::pmr::vector<Slot> nodes_;  // by NUMA node; host memory only
  std::pmr::vector<Uid> requesters_;
  std::pmr::vector<Slot> slots_;          // by uid
  std::pmr::vector<std::uint8_t> kinds_;  // by uid; 1: slots_ is a requester's
  std::pmr::vector<Path> paths_;
  std::pmr::vector<Slot> serving_;
  std::pmr::vector<Slot> order_;
  std::pmr::vector<std::uint16_t> reached_;  // by requester: how much of its part of order_ counts
  std::pmr::vector<Slot> nearest_host_;      // by requester
  std::pmr::vector<Slot> shared_order_;
  std::pmr::vector<std::uint16_t> shared_;
};

enum class Access : std::uint8_t { kRead, kWrite, kAtomic };

// What happened to the page, and to the pages around it, so far.
struct History {
  // Times that the page came back to where it is now, after going to the requester, within the mirror's window of time.
  std::uint32_t returns = 0;
  // Faults of the requester in the page's block within the window: how much the block is in use.
  std::uint32_t faults = 0;
  // The aligned region of 2^n pages around the page that should move along, as density shows (mirror/policy.h).
  std::uint32_t dense_pages = 1;
  // Faults in a row, this one included, at one distance from each other; see decide_prefetch().
  std::uint32_t streak = 0;
  std::int32_t stride_pages = 0;
};

// The numbers that decisions depend on.
struct PlacementRules {
  std::uint32_t share_after_returns = 2;  // a page that went back and forth so often is shared
  std::uint32_t expected_touches =
      4;  // how often a page is read in full before it is wanted elsewhere, without history
  std::uint32_t max_expected_touches = 64;  // and with it
  std::uint32_t move_overhead_ns = 2000;    // of one move, besides copying
  std::uint32_t worth_percent = 125;        // a move must save so much of its cost
  std::uint32_t max_pages = 512;            // moved with one fault: a block
  std::uint32_t hold_us = 2000;             // how long a page that cannot be shared rests between moves
  std::uint32_t bulk_pages = 16;            // so many pages that are read together are likely results; 0: none are
};

struct PlacementRequest {
  Slot requester = 0;
  Slot home = kNoSlot;  // where the page lives; kNoSlot: nobody has touched it
  // The host memory from which the kernel takes a page for who asks; no other is chosen unless the policy names it.
  // kNoSlot: any.
  Slot kernel_node = kNoSlot;
  Access access = Access::kRead;
  bool can_map_home = false;      // the mirror can let the requester use the page where it is
  std::uint32_t map_cost_ns = 0;  // of doing so, once: for the application a mapping of its own
  bool can_move = true;           // not pinned, not a file's
  bool can_share = true;          // the page may become memory that both sides map (not: thread control blocks)
  // Pages that would go along and that the requester may just read: copies of them can go, if it comes to that. 0:
  // none.
  std::uint32_t copyable_pages = 0;
  History history{};
  const Policy* policy = nullptr;         // null: none
  const PlacementMap* map = nullptr;      // required
  std::span<const std::uint64_t> room{};  // free pages by target; missing: enough. Host memory always has room
  PlacementRules rules{};
};

// Its numbers are published (live_layout.h).
enum class Action : std::uint8_t {
  kMap,        // the page stays and the requester gets a mapping of it
  kMove,       // the page goes to the target, or is allocated there
  kDuplicate,  // a read-only copy goes to the target, what is at home becomes read-only
  kShare,      // the page goes to the target and both sides map it there
  kHold,       // nothing for hold_us; then ask again
  kFail,       // cannot be served: the page cannot move and not be mapped
};

// Its numbers are published (live_layout.h): new ones come last.
enum class Reason : std::uint8_t {
  kBound,           // the policy's first bound target with room
  kBoundHere,       // lives in a bound target
  kBoundFull,       // all bound targets are full: something must leave
  kPreferred,       // the policy's preferred target
  kPreferredHere,   // lives there
  kAccessedBy,      // mapped for an initiator that the policy names
  kReadMostly,      // copies for readers
  kBackAndForth,    // wanted by both sides
  kCannotShare,     // wanted by both sides, which cannot map it together
  kFirstTouch,      // nobody has touched it: the requester's best target
  kBestHere,        // lives in the requester's best target already
  kNotWorthMoving,  // nearer memory would not pay for the move
  kWorthMoving,     // it would
  kOnlyWay,         // the requester cannot use it where it is
  kFull,            // best memory that has room is this; something must leave
  kEvicted,         // must leave a full target
  kImmovable,       // cannot move: mapped where it is
  kUnreachable,     // cannot move and cannot be mapped
  kReadInBulk,      // results, likely: the reader gets copies, and where they live keeps its own
  kWritten,         // the copies of the other side go, because this one writes
  kAsked,           // hbind(), fork, or a command of the driver
  kExpected,        // a launch that waits names it
};
// A sentence without a full stop, for a person.
HMS_API const char* text_of(Reason reason) noexcept;
HMS_API const char* name_of(Action action) noexcept;

struct Decision {
  Action action = Action::kFail;
  Reason reason = Reason::kUnreachable;
  bool evict = false;       // the target is full: make room first
  Slot target = kNoSlot;    // where the page lives afterwards; of kDuplicate, the copy
  std::uint32_t pages = 1;  // of the aligned region around the page that this should be done for
  std::uint32_t hold_us = 0;
};

// For a fault of a device or of the application, and for an allocation (home = kNoSlot).
HMS_API Decision decide(const PlacementRequest& request) noexcept;

// What to bring ahead of the next faults: `pages` pages, each `stride` pages from the one before, beginning one
// stride after the faulting page. pages = 0: nothing. Needs the history's streak and stride; asks for no more than the
// decision's target has room for without eviction.
struct Prefetch {
  std::int32_t stride = 0;
  std::uint32_t pages = 0;
};
HMS_API Prefetch decide_prefetch(const PlacementRequest& request, const Decision& decision) noexcept;

// A block that might leave a full target.
struct EvictionCandidate {
  std::uint32_t idle_ms = 0;         // since the last fault or launch that named it
  std::uint32_t pages = 0;           // that would leave
  std::uint32_t pages_to_write = 0;  // of these, those that have no copy elsewhere
  const Policy* policy = nullptr;    // of its first page; null: none
};
// Greater goes first; 0 must stay unless nothing else is left, because the program bound it there.
HMS_API std::uint64_t eviction_rank(const EvictionCandidate& candidate, Slot target, const PlacementMap& map) noexcept;

// Where the pages of a block that leaves `from` go: the policy's next bound target with room, its preferred one, other
// devices' memory that the device `requester` reaches better than host memory, or the host memory that is nearest to
// it.
HMS_API Decision decide_eviction(Slot from, Slot requester, const Policy* policy, const PlacementMap& map,
                                 std::span<const std::uint64_t> room) noexcept;

}  // namespace mirrorcl::hms
