// SPDX-License-Identifier: Apache-2.0
// What the mirror tells other processes about itself while it works: its counters, histograms of service times, the
// last decisions where pages live, and which pages devices have. The layout is hms/live_layout.h's; `hms stats`,
// `hms why` and `hms residency` read it.
//
// All of it is written with plain stores to pinned memory: no lock, no allocation, no system call. A note costs some
// 10 ns.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/unique_fd.h"
#include "hms/live_layout.h"
#include "hms/placement.h"
#include "mirror/counters.h"
#include "mirror/device/operations.h"
#include "mirror/pinned_arena.h"

namespace mirrorcl::mirror {

class Live {
 public:
  static constexpr std::uint32_t kDecisions = 4096;
  static constexpr std::uint32_t kBlocks = 32'768;  // 64 GiB that devices have a part of
  static constexpr std::uint32_t kAllocations = 1024;
  static constexpr std::uint32_t kTopologySize = 64 << 20;  // only what is used takes memory

  // Its memory comes from `arena`. If no shared memory object can be had (told in the log), everything works, and
  // nobody else can look. Locking: before the threads start.
  explicit Live(PinnedArena& arena);
  ~Live();
  Live(const Live&) = delete;
  Live& operator=(const Live&) = delete;

  Counters& counters() noexcept { return counters_; }
  const Counters& counters() const noexcept { return counters_; }

  // In the child of a fork: the object is the parent's.
  void close_in_child() noexcept { file_.reset(); }

  // --- service thread

  // Decisions and services that follow begin now (CLOCK_MONOTONIC).
  void begin(std::uint64_t now_ns) noexcept {
    now_ns_ = now_ns;
    pages_ = 0;
  }

  struct DecisionNote {
    Range range{};  // pages
    hms::Uid requester = hms::live::kHostThreads;
    hms::Uid from = hms::live::kHostMemory;
    hms::Uid to = hms::live::kHostMemory;
    hms::Access access = hms::Access::kRead;
    hms::Action action = hms::Action::kMap;
    hms::Reason reason = hms::Reason::kOnlyWay;
    bool evicts = false;
    const hms::Policy* policy = nullptr;  // null or empty: none applied
  };
  void note_decision(const DecisionNote& note) noexcept;

  // Pages have changed sides: `bytes` were copied; the others of `pages` had no contents.
  enum class To : std::uint8_t { kDevice, kHost };
  void note_migration(To to, unsigned pages, std::uint64_t bytes) noexcept;

  // A try at a fault ends at `now_ns`; it began at begin(), or where the one before ended. Those that did not serve it
  // are not part of its time of service.
  enum class Fault : std::uint8_t { kDevice, kCpu };
  void note_try(Fault fault, bool served, std::uint64_t now_ns) noexcept;

  // An entry for the block at `base`, all zeros; null: the table is full.
  hms::live::Block* list_block(std::uint64_t base) noexcept;
  void unlist_block(hms::live::Block* entry) noexcept;
  static void show_pages(hms::live::Block& entry, std::uint32_t device, const hms::live::Block::Pages& pages) noexcept;

  // --- one application thread at a time

  // Device `index` of this mirror, and what it is in the topology.
  void publish_device(std::uint32_t index, std::string_view name, hms::Uid initiator, hms::Uid target,
                      std::uint64_t memory_size) noexcept;
  // SVM memory or a buffer has been allocated as the note says.
  void note_allocation(const DecisionNote& note) noexcept;

  // Device `index` has left.
  void withdraw_device(std::uint32_t index) noexcept;
  // The topology that uids refer to, as hms::to_json() writes it; one that is too long is left out.
  void publish_topology(std::string_view json) noexcept;

 private:
  enum Kind : std::uint32_t {
    kDeviceIsolated,
    kDeviceBulk,
    kCpuIsolated,
    kCpuBulk,
    kToDevice,
    kToHost,
    kHistograms,
  };
  struct Object;

  static Object* place(PinnedArena& arena, UniqueFd* file);
  static hms::live::Decision decision_of(const DecisionNote& note, std::uint64_t time_ns) noexcept;
  void note_value(Kind kind, std::uint64_t value) noexcept;

  UniqueFd file_;
  Object* object_;
  Counters counters_;
  std::uint64_t decisions_ = 0;    // made so far
  std::uint64_t allocations_ = 0;  // likewise
  std::uint64_t now_ns_ = 0;
  std::uint64_t pages_ = 0;              // that changed sides since begin()
  std::uint32_t free_block_ = kNoBlock;  // linked through `reserved`
  static constexpr std::uint32_t kNoBlock = ~std::uint32_t{0};
};

}  // namespace mirrorcl::mirror
