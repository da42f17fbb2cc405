// SPDX-License-Identifier: Apache-2.0
// Range policies: what a program has asked of the memory behind ranges of its addresses. They lie in an interval tree
// beside the kernel's list of mappings, so that they neither split mappings nor are merged with them, and they end when
// the range is unmapped.
//
// The tree is persistent: a change copies the path from the root to what it changes and publishes the new root with one
// store. A reader works on the version it found, and the nodes that a change has replaced are used again only when no
// reader can see them. Ranges are disjoint; equal neighbours are merged.
//
// Three kinds of thread meet here:
//   - application threads change policies and look at them, one at a time under a lock;
//   - pinned threads (the mirror's service thread) look policies up with PolicyReader. That takes no lock, waits for
//     nobody, allocates nothing and touches only the memory that the table was created in;
//   - the one thread that learns of unmapped memory calls drop_unmapped(), which never waits either: while an
//     application thread holds the lock, perhaps itself waiting for a page fault to be served, the range is noted and
//     lookups obey the note until the holder has applied it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <optional>
#include <span>

#include "base/futex_lock.h"
#include "base/result.h"
#include "hms/api.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// [start, end), addresses in bytes. Those of policies are page aligned.
struct AddressRange {
  std::uint64_t start;
  std::uint64_t end;

  constexpr std::uint64_t size() const { return end - start; }
  constexpr bool contains(std::uint64_t address) const { return start <= address && address < end; }
  constexpr bool operator==(const AddressRange&) const = default;
};

// Uids name objects of the topology. The spans point into the table.
struct Policy {
  std::span<const Uid> bind{};         // targets that memory must come from, in order; empty: not bound
  Uid preferred = kNoUid;              // target where memory should live as long as it has room
  std::span<const Uid> accessed_by{};  // initiators that should have the memory mapped wherever it lives
  bool read_mostly = false;            // readers get copies of their own

  bool empty() const noexcept { return bind.empty() && preferred == kNoUid && accessed_by.empty() && !read_mostly; }
};

// Equal in content.
HMS_API bool operator==(const Policy& a, const Policy& b) noexcept;

// What a change does to the policy of a range. Members without a value stay as they are.
struct PolicyChange {
  std::optional<std::span<const Uid>> bind;  // replaces the list; empty unbinds
  std::optional<Uid> preferred;              // kNoUid: none
  std::optional<std::span<const Uid>> accessed_by;
  std::optional<bool> read_mostly;
};

struct PolicyLimits {
  std::uint32_t ranges = 16'384;      // ranges with a policy of their own, 128 bytes each
  std::uint32_t list_words = 65'536;  // room for lists of uids, 4 bytes each
};

class HMS_API PolicyTable {
 public:
  struct Deleter {
    std::pmr::memory_resource* memory;
    void operator()(PolicyTable* table) const noexcept;
  };
  using Pointer = std::unique_ptr<PolicyTable, Deleter>;

  // Takes all the memory that the table will ever use from `memory`, at once; it must not migrate if pinned threads
  // are to look policies up. kOutOfHostMemory.
  static Result<Pointer> create(std::pmr::memory_resource* memory, const PolicyLimits& limits = {});

  // --- Application threads. Locking: each call takes the table's lock.

  // Changes the policy of every page of `range` (page aligned, not empty). 0, or -ENOMEM with nothing changed when the
  // limits are reached.
  int change(AddressRange range, const PolicyChange& change) noexcept;
  // Takes all policy from `range`. Never fails: if there is no room for one more range when `range` lies inside
  // another, the whole of that is dropped.
  void drop(AddressRange range) noexcept;

  // Calls `visit` for every range with a policy that meets `range`, in order of address, with the whole range of that
  // policy. `visit` must not call the table.
  void for_each(AddressRange range, const std::function<void(AddressRange, const Policy&)>& visit) noexcept;
  std::uint32_t range_count() noexcept;

  // In the child of a fork, where no other thread exists: empties the table, whose lock a thread of the parent may
  // hold.
  void reset_in_child() noexcept;

  // --- The notifier. Locking: one thread at a time, which holds no PolicyReader; never waits for the lock.

  // `range` has been unmapped or moved away: it has no policy any more. From its return on no lookup finds one there,
  // until somebody sets it anew. If an application thread is stopped within a change while kPendingDrops bound ranges
  // are unmapped, all policies are dropped; dropped_all() counts that.
  void drop_unmapped(AddressRange range) noexcept;
  std::uint64_t dropped_all() const noexcept { return drop_all_wanted_.load(std::memory_order_relaxed); }

  static constexpr std::uint32_t kPendingDrops = 256;

 private:
  // A change copies the paths to both ends of its range, a few times the tree's depth (50 is beyond all likelihood for
  // a treap of 16,384 nodes).
  static constexpr std::uint32_t kPathReserve = 1024;
  // Ranges that only drop() may add, when it cuts one in two.
  static constexpr std::uint32_t kDropReserve = 1024;

  friend class PolicyReader;
  friend class PolicyEdit;

  using Index = std::uint32_t;  // of a node or a list; 0 is none

  struct Node {
    AddressRange range{};
    std::uint64_t version = 0;  // of the change that made the node: within that change it may still be altered
    Index left = 0;
    Index right = 0;
    Index next_retired = 0;
    std::uint32_t priority = 0;  // a parent's is not less than its children's
    Index bind = 0;
    Index accessed_by = 0;
    Uid preferred = kNoUid;
    bool read_mostly = false;
  };

  // Lists of uids in pieces of 2^n words: {references and n, size, uids...}. Locking: the lock.
  struct Lists {
    static constexpr unsigned kSmallest = 2;  // 2^2 words
    static constexpr unsigned kLargest = 11;  // 2^11 words hold the 1,024 uids that hbind() takes at most
    // The first word: references, and above them the order of the piece.
    static constexpr unsigned kOrderShift = 28;
    static constexpr std::uint32_t kReferencesMask = (1U << kOrderShift) - 1;
    std::uint32_t* words = nullptr;
    std::uint32_t size = 0;
    std::uint32_t used = 1;  // words handed out so far; pieces are not joined again until all lists are gone
    std::uint32_t lists = 0;
    Index free[kLargest + 1] = {};

    Index add(std::span<const Uid> uids) noexcept;  // 0: no room
    void keep(Index list) noexcept;
    void release(Index list) noexcept;
    std::span<const Uid> get(Index list) const noexcept;
  };

  struct Drop {
    std::atomic<std::uint64_t> start{0};
    std::atomic<std::uint64_t> end{0};
  };

  PolicyTable(std::pmr::memory_resource* memory, const PolicyLimits& limits);
  ~PolicyTable();

  Policy policy_of(const Node& node) const noexcept;
  // Nodes that meet `range`, in order. Locking: the lock.
  template <typename Visit>
  void visit_nodes(Index tree, AddressRange range, const Visit& visit) const noexcept {
    if (tree == 0) return;
    const Node& node = nodes_[tree];
    if (node.range.start > range.start) visit_nodes(node.left, range, visit);
    if (node.range.start < range.end && range.start < node.range.end) visit(node);
    if (node.range.end < range.end) visit_nodes(node.right, range, visit);
  }
  void lock() noexcept MIRRORCL_ACQUIRE(lock_);
  void unlock() noexcept MIRRORCL_RELEASE(lock_);
  bool drops_pending() const noexcept;
  // False if a look at `range` finds no policy. Notifier.
  bool may_have_policy(AddressRange range) const noexcept;
  void apply_pending_drops() noexcept MIRRORCL_REQUIRES(lock_);
  void drop_locked(AddressRange range) noexcept MIRRORCL_REQUIRES(lock_);
  void wait_for_readers() noexcept;

  std::pmr::memory_resource* memory_;
  PolicyLimits limits_;
  std::uint32_t node_count_;
  Node* nodes_;  // nodes_[0] is not used
  Lists lists_;
  Index free_nodes_ = 0;  // linked through next_retired
  Index fresh_node_ = 1;  // this and all behind it have never been used
  std::uint32_t live_ranges_ = 0;
  std::uint64_t version_ = 0;
  std::uint32_t random_ = 0x9e37'79b9;
  FutexLock lock_;

  std::atomic<Index> root_{0};
  // Readers count themselves in under the phase that they found. A change flips the phase and waits for the other
  // count to fall to zero before it recycles nodes.
  std::atomic<std::uint32_t> phase_{0};
  mutable std::atomic<std::uint32_t> readers_[2] = {0, 0};

  // A ring: the notifier writes at the tail, the holder of the lock takes from the head.
  Drop pending_[kPendingDrops];
  std::atomic<std::uint64_t> pending_head_{0};
  std::atomic<std::uint64_t> pending_tail_{0};
  std::atomic<std::uint64_t> drop_all_wanted_{0};
  std::atomic<std::uint64_t> drop_all_done_{0};
};

// Looks policies up, without a lock. What find() returns stays valid as long as the reader lives; let it live shortly,
// for changes wait for it. Locking: pinned threads only. An application thread in its place could be stopped by a page
// fault, and everybody who changes policies with it.
class HMS_API PolicyReader {
 public:
  explicit PolicyReader(const PolicyTable& table) noexcept;
  ~PolicyReader();
  PolicyReader(const PolicyReader&) = delete;
  PolicyReader& operator=(const PolicyReader&) = delete;

  struct Found {
    AddressRange range;  // all of it has this policy; where there is none, the gap between policies
    Policy policy;
  };
  // The policy of the page at `address`; Policy::empty() if it has none.
  Found find(std::uint64_t address) const noexcept;

 private:
  const PolicyTable& table_;
  std::uint32_t phase_;
};

}  // namespace mirrorcl::hms
