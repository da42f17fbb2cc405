// SPDX-License-Identifier: Apache-2.0
// The mirror's questions to hms::decide(): who asks, where the page lives, what has happened to it, what the program
// wishes for. Nothing else decides where pages live.
//
// A mirror that stands alone answers with a topology of its own, which knows that a device's memory is best for the
// device and host memory for the application. With place_by() the machine's topology and the program's policies count.
//
// Locking: service thread only, but for open().
#pragma once

#include <array>
#include <cstdint>
#include <memory_resource>
#include <span>

#include "base/result.h"
#include "hms/placement.h"
#include "mirror/block.h"
#include "mirror/host_nodes.h"

namespace mirrorcl::mirror {

// The machine, as decisions need it.
struct PlacementSource {
  struct Device {
    hms::Uid initiator = hms::kNoUid;
    hms::Uid target = hms::kNoUid;  // its memory
  };
  const hms::PlacementMap* map = nullptr;     // in memory that never migrates
  std::array<Device, kMaxDevices> devices{};  // in the map, by the index under which they are attached
};

// Host memory, touched or not, and the application's threads, beside devices' indices.
inline constexpr unsigned kHostSide = kMaxDevices;

class Placement {
 public:
  // Takes the memory of its own map from `memory`, which never migrates.
  Result<void> open(std::pmr::memory_resource* memory, const hms::PlacementRules& rules);

  // From now on, and not any more by what was given before.
  void place_by(const PlacementSource& source) noexcept { source_ = source; }
  // What the program has asked for, in memory that never migrates; null: nothing.
  void follow(const hms::PolicyTable* policies) noexcept { policies_ = policies; }
  // The device under `index`; private: the CPU cannot map its memory.
  void attach(unsigned index, bool private_memory) noexcept { private_[index] = private_memory; }

  struct Question {
    std::uint64_t address;
    unsigned requester;  // a device's index, or kHostSide
    unsigned home;       // likewise
    hms::Access access = hms::Access::kRead;
    hms::History history{};
    bool can_share = true;
    std::uint32_t copyable_pages = 0;  // hms::PlacementRequest
    int home_node = kUnknownNode;      // where the page lives, if the application has it
    int kernel_node = kUnknownNode;    // where the kernel would allocate it for the application
  };
  // The decision's target is of no use to the caller; the policy that applied is policy().
  hms::Decision ask(const Question& question) noexcept;
  const hms::Policy& policy() const noexcept { return at_hand_.policy; }
  // All of it has that policy.
  Range policy_range() const noexcept { return at_hand_.range; }
  // What to bring ahead, after the answer to the same question.
  hms::Prefetch ahead(const Question& question, const hms::Decision& decision) const noexcept;
  // The target that decisions know the memory of device `index` by.
  // The target that decisions know NUMA node `node` by; hms::live::kHostMemory: they do not tell nodes apart.
  hms::Uid host_memory(int node) const noexcept;
  hms::Uid memory_of(unsigned index) const noexcept { return source_for(index, kHostSide).devices[index].target; }

  // --- eviction. The question at hand stays.

  // How readily the block around `address` leaves the memory of device `index`: greater goes first, 0 last.
  std::uint64_t eviction_rank(std::uint64_t address, unsigned index, hms::EvictionCandidate candidate) const noexcept;
  // Where it goes from there: another device's memory, by its index, or kHostSide. `free_pages`: of each device's
  // memory; 0 also for devices that are not to have it. leaving_policy() is the policy that applied.
  unsigned evicted_to(std::uint64_t address, unsigned index,
                      const std::array<std::uint64_t, kMaxDevices>& free_pages) noexcept;
  const hms::Policy& leaving_policy() const noexcept { return leaving_.policy; }

 private:
  static constexpr std::size_t kListed = 16;
  // Targets up to here can be told to have room.
  static constexpr std::size_t kTargets = 256;
  // What the program has asked for somewhere, with lists of its own.
  struct Wish {
    hms::Policy policy;
    Range range{};  // all of it has that policy
    std::array<hms::Uid, kListed> bind{};
    std::array<hms::Uid, kListed> accessed_by{};
  };

  void look_up(std::uint64_t address, Wish* wish) const noexcept;
  hms::PlacementRequest request(const Question& question) const noexcept;
  const PlacementSource& source_for(unsigned requester, unsigned home) const noexcept;
  bool knows(unsigned side) const noexcept;

  hms::PlacementRules rules_;
  hms::PlacementMap::Pointer own_map_{nullptr, {nullptr}};
  PlacementSource own_[2];  // devices with memory that the CPU can map, and with private memory
  PlacementSource source_;
  const hms::PolicyTable* policies_ = nullptr;
  std::array<bool, kMaxDevices> private_{};
  Wish at_hand_;
  Wish leaving_;
  std::array<std::uint64_t, kTargets> room_{};
};

}  // namespace mirrorcl::mirror
