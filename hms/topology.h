// SPDX-License-Identifier: Apache-2.0
// The model of a machine's memories, after the Heterogeneous Memory System proposal of 2018.
//
//   target     a memory: a NUMA node, a device's memory, a DAX region
//   initiator  what starts memory accesses: a group of CPUs in the same place, a device, a generic initiator
//   link       joins initiators and targets: every initiator on it reaches every target on it with the link's figures
//   bridge     leads from one link to another, for the initiators that it lists only
//
// Figures (properties.h) belong to links and bridges. Which target is best for whom, and the paths, are questions to
// query.h.
//
// A Topology is a value: build it or load it, then share it as `std::shared_ptr<const Topology>`.
// Locking: const functions may be called by many threads at once; the others by one thread that has the object to
// itself.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "hms/api.h"
#include "hms/id_set.h"
#include "hms/properties.h"

namespace mirrorcl::hms {

// Names an object for as long as it exists; one counter from 0 for all four types. An object keeps its uid when the
// machine is looked at again, and a uid is not given a second time.
using Uid = std::uint32_t;
inline constexpr Uid kNoUid = ~Uid{0};

// An object of a later version than this is as good as absent: queries leave it out, files keep it. So memory that
// needs care this library cannot take is never used by accident.
inline constexpr std::uint32_t kKnownVersion = 0;

enum class ObjectType : std::uint8_t { kTarget, kInitiator, kLink, kBridge };

struct Object {
  Uid uid = kNoUid;           // kNoUid when added: the topology chooses
  std::uint32_t version = 0;  // see kKnownVersion
  std::string name;           // unique in the topology and the same in the next one of this machine: "node0", "cpu0-3"
  std::string parent;         // what it is for the system: "node0", "cpu0", a PCI bus address; may be empty

  bool known() const noexcept { return version <= kKnownVersion; }
  friend bool operator==(const Object&, const Object&) = default;
};

enum class MemoryKind : std::uint8_t {
  kDram,
  kHbm,     // high-bandwidth memory beside DRAM
  kNvm,     // persistent memory used as memory
  kCxl,     // behind a CXL link
  kSpm,     // specific-purpose memory whose nature the firmware does not tell
  kDevice,  // a device's own
  kOther,
};

// A cache between a memory and everybody who accesses it.
struct MemorySideCache {
  std::uint64_t size = 0;       // bytes
  std::uint32_t line_size = 0;  // bytes; 0 = unknown
  // As the kernel numbers them in indexing: 0 direct-mapped, 1 indexed, 2 custom; -1 = unknown.
  std::int32_t indexing = -1;
  // write_policy: 0 write-back, 1 write-through, 2 other; -1 = unknown.
  std::int32_t write_policy = -1;
  friend bool operator==(const MemorySideCache&, const MemorySideCache&) = default;
};

struct Target : Object {
  MemoryKind kind = MemoryKind::kDram;
  std::int32_t node = -1;             // NUMA node id of the kernel; -1: not memory that the kernel hands out
  std::int32_t package = -1;          // CPU package it belongs to; -1: none, or several
  std::int32_t tier = -1;             // memory tier, 0 is the fastest; -1: unknown
  std::uint64_t size = 0;             // bytes
  std::optional<std::uint64_t> free;  // bytes, when last looked at; nothing: unknown
  bool online = true;                 // pages can be allocated in it now
  IdSet cpus;                         // the CPUs that it is local to
  std::string device;  // the device whose memory it is ("mirrorcl:0", "0000:3b:00.0"); empty for host memory
  std::vector<MemorySideCache> caches;  // nearest to the memory first

  bool is_host() const noexcept { return node >= 0; }
  friend bool operator==(const Target&, const Target&) = default;
};

enum class InitiatorKind : std::uint8_t { kCpu, kDevice, kGeneric };

struct Initiator : Object {
  InitiatorKind kind = InitiatorKind::kCpu;
  std::int32_t node = -1;     // a NUMA node that it belongs to or, for a generic initiator, is; -1: none
  std::int32_t package = -1;  // -1: none, or several
  IdSet cpus;                 // kCpu: the CPUs that it is; otherwise those that it is closest to
  std::string device;         // as in Target; empty for CPUs
  friend bool operator==(const Initiator&, const Initiator&) = default;
};

struct Link : Object {
  std::vector<Uid> initiators;  // ascending, no repeats
  std::vector<Uid> targets;     // ascending, no repeats
  Properties properties;
  bool coherent = true;
  bool atomic = true;
  // Made of cells of equal figures (cells.h). Such a link may also join pairs that a better link joins: paths() does
  // not show it for these.
  bool merged = false;
  friend bool operator==(const Link&, const Link&) = default;
};

struct Bridge : Object {
  Uid from = kNoUid;            // a link
  Uid to = kNoUid;              // another link
  bool both_ways = false;       // also leads from `to` to `from`
  std::vector<Uid> initiators;  // who may use it; ascending, no repeats
  Properties properties;
  bool coherent = true;
  bool atomic = true;
  friend bool operator==(const Bridge&, const Bridge&) = default;
};

class HMS_API Topology {
 public:
  // Adds an object and returns its uid. kInvalidArgument, and nothing is changed, if its uid or name is taken, or if it
  // refers to an object that is not there or is of another type. An empty name becomes "target3" and so on; member
  // lists are sorted.
  Result<Uid> add(Target target);
  Result<Uid> add(Initiator initiator);
  Result<Uid> add(Link link);
  Result<Uid> add(Bridge bridge);

  // Removes an object; links and bridges forget it, and a link takes its bridges with it.
  Result<void> remove(Uid uid);

  // All of a type, in the order of their uids.
  std::span<const Target> targets() const noexcept { return targets_; }
  std::span<const Initiator> initiators() const noexcept { return initiators_; }
  std::span<const Link> links() const noexcept { return links_; }
  std::span<const Bridge> bridges() const noexcept { return bridges_; }

  // By uid; nullptr if there is none of that type.
  const Target* target(Uid uid) const noexcept;
  const Initiator* initiator(Uid uid) const noexcept;
  const Link* link(Uid uid) const noexcept;
  const Bridge* bridge(Uid uid) const noexcept;
  const Object* object(Uid uid) const noexcept;
  std::optional<ObjectType> type_of(Uid uid) const noexcept;

  // By what a person or the system calls it; nullptr if there is none.
  const Object* find(std::string_view name) const noexcept;
  const Target* target_of_node(std::int32_t node) const noexcept;
  const Initiator* initiator_of_cpu(std::uint32_t cpu) const noexcept;
  const Target* target_of_device(std::string_view device) const noexcept;        // the first
  const Initiator* initiator_of_device(std::string_view device) const noexcept;  // the first

  // Changes what changes while a machine runs. kInvalidArgument if `uid` is not of the right type.
  Result<void> set_free(Uid target, std::optional<std::uint64_t> bytes);
  Result<void> set_online(Uid target, bool online);
  Result<void> set_figure(Uid link_or_bridge, Property property, Value value);

  // What a person wants to know about the machine ("name", "product", "source"); kept by files, not used by queries.
  std::map<std::string, std::string> info;

  // The uid that the next object gets. A topology that continues another one starts where that ended.
  Uid next_uid() const noexcept { return next_uid_; }
  void reserve_uids(Uid first_free) noexcept;

  // Equal objects with equal uids, the same info and the same next uid.
  friend bool operator==(const Topology& a, const Topology& b) {
    return a.targets_ == b.targets_ && a.initiators_ == b.initiators_ && a.links_ == b.links_ &&
           a.bridges_ == b.bridges_ && a.info == b.info && a.next_uid_ == b.next_uid_;
  }

  // For query.h: objects by their position in targets(), links() and so on, which saves looking uids up.
  struct Adjacency {
    std::vector<std::vector<std::uint32_t>> links_of_initiator;
    std::vector<std::vector<std::uint32_t>> targets_of_link;
    struct Crossing {
      std::uint32_t bridge;
      std::uint32_t link;  // where it leads to
    };
    std::vector<std::vector<Crossing>> crossings_of_link;
  };
  const Adjacency& adjacency() const noexcept { return adjacency_; }
  std::optional<std::uint32_t> position(Uid uid) const noexcept;

 private:
  struct Slot {
    ObjectType type;
    std::uint32_t position;
  };

  Result<Uid> claim(Object& object, ObjectType type);
  Result<void> check_members(const Object& object, std::vector<Uid>& members, ObjectType type) const;
  template <typename T>
  Uid insert(std::vector<T>& objects, T object, ObjectType type);
  void rebuild_index();
  void index_link(std::uint32_t position);
  void index_bridge(std::uint32_t position);

  std::vector<Target> targets_;
  std::vector<Initiator> initiators_;
  std::vector<Link> links_;
  std::vector<Bridge> bridges_;
  Uid next_uid_ = 0;

  std::unordered_map<Uid, Slot> slots_;
  std::map<std::string, Uid, std::less<>> names_;
  Adjacency adjacency_;
};

HMS_API std::string_view name_of(ObjectType type);     // "target", "initiator", "link", "bridge"
HMS_API std::string_view name_of(MemoryKind kind);     // "dram", "hbm", "nvm", "cxl", "spm", "device", "other"
HMS_API std::string_view name_of(InitiatorKind kind);  // "cpu", "device", "generic"
HMS_API std::optional<MemoryKind> memory_kind_of(std::string_view name);
HMS_API std::optional<InitiatorKind> initiator_kind_of(std::string_view name);

// The proposal's name of an object: "v0-3-target".
HMS_API std::string entry_name(const Object& object, ObjectType type);

}  // namespace mirrorcl::hms
