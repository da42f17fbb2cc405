// SPDX-License-Identifier: Apache-2.0
// Test doubles: the memory of a machine that does not exist. Every page is an entry in one table that says which target
// it lives in; the host and each device move pages by changing it, and count what they are asked.
#pragma once

#include <errno.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "hms/device_memory.h"
#include "hms/host_memory.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// Locking: its own mutex, for the doubles below.
struct FakePages {
  std::mutex mutex;
  AddressRange mapped{0x10'0000'0000, 0x20'0000'0000};
  std::map<std::uint64_t, Uid> place;     // by address; pages that nobody touched are not there
  std::set<std::uint64_t> pinned;         // cannot be moved
  std::map<Uid, std::uint64_t> capacity;  // pages; targets that are not there have no limit

  void touch(AddressRange range, Uid target) {
    std::scoped_lock lock(mutex);
    for (std::uint64_t page = range.start; page < range.end; page += 4096) place[page] = target;
  }
  Uid place_of(std::uint64_t address) {
    std::scoped_lock lock(mutex);
    auto found = place.find(address);
    return found == place.end() ? kNoUid : found->second;
  }
  std::uint64_t count_in(Uid target) {
    std::scoped_lock lock(mutex);
    return count_locked(target);
  }
  std::uint64_t count_locked(Uid target) const {
    return static_cast<std::uint64_t>(
        std::ranges::count_if(place, [&](const auto& entry) { return entry.second == target; }));
  }
  std::uint64_t room_locked(Uid target) const {
    auto limit = capacity.find(target);
    if (limit == capacity.end()) return ~std::uint64_t{0};
    return limit->second - std::min(limit->second, count_locked(target));
  }
  void move(AddressRange range, Uid target, Untouched untouched) {
    std::scoped_lock lock(mutex);
    std::uint64_t room = room_locked(target);
    for (std::uint64_t page = range.start; page < range.end && room != 0; page += 4096) {
      auto found = place.find(page);
      if (found == place.end()) {
        if (untouched == Untouched::kSkip) continue;
        place[page] = target;
      } else {
        if (found->second == target || pinned.contains(page)) continue;
        found->second = target;
      }
      --room;
    }
  }
};

class FakeHostMemory final : public HostMemory {
 public:
  FakeHostMemory(FakePages& pages, const Topology& topology) : pages_(pages), topology_(topology) {}

  struct Told {
    AddressRange range;
    HostPolicy::Mode mode;
    std::vector<int> nodes;
    bool operator==(const Told&) const = default;
  };
  std::vector<Told> told;              // every set_policy(), in order
  std::vector<int> set_policy_errors;  // what the next calls of set_policy() answer; then 0
  std::set<int> forbidden_nodes;       // may_use() is false
  std::map<int, std::uint64_t> free;   // bytes, by node; others have no limit

  bool is_mapped(AddressRange range) const noexcept override {
    return pages_.mapped.start <= range.start && range.end <= pages_.mapped.end;
  }
  bool may_use(int node) const noexcept override { return !forbidden_nodes.contains(node); }
  std::uint64_t free_bytes(int node) const noexcept override {
    const auto found = free.find(node);
    return found == free.end() ? ~std::uint64_t{0} : found->second;
  }
  int set_policy(AddressRange range, const HostPolicy& policy) noexcept override {
    std::scoped_lock lock(pages_.mutex);
    int error = 0;
    if (!set_policy_errors.empty()) {
      error = set_policy_errors.front();
      set_policy_errors.erase(set_policy_errors.begin());
    }
    if (error != 0) return error;
    told.push_back({range, policy.mode, {policy.nodes.begin(), policy.nodes.end()}});
    return 0;
  }
  int nodes_of(std::uint64_t start, std::span<int> nodes) const noexcept override {
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const Target* target = topology_.target(pages_.place_of(start + i * kPageSize));
      nodes[i] = target == nullptr ? -1 : target->node;
    }
    return 0;
  }
  int move(AddressRange range, int node) noexcept override {
    pages_.move(range, topology_.target_of_node(node)->uid, Untouched::kSkip);
    return 0;
  }

 private:
  FakePages& pages_;
  const Topology& topology_;
};

class FakeDeviceMemory final : public DeviceMemory {
 public:
  FakeDeviceMemory(FakePages& pages, Uid target, Uid home) : pages_(pages), target_(target), home_(home) {}

  std::vector<AddressRange> changes;    // every policy_changed(), in order
  std::vector<AddressRange> moved_in;   // every move_in()
  std::vector<AddressRange> moved_out;  // every move_out()
  int move_in_error = 0;                // move_in() answers this

  Uid target() const noexcept override { return target_; }
  std::uint64_t free_bytes() const noexcept override {
    std::scoped_lock lock(pages_.mutex);
    return std::min(pages_.room_locked(target_), std::uint64_t{1} << 40) * kPageSize;
  }
  int move_in(AddressRange range, Untouched untouched) noexcept override {
    if (move_in_error != 0) return move_in_error;
    note(moved_in, range);
    pages_.move(range, target_, untouched);
    return 0;
  }
  int move_out(AddressRange range) noexcept override {
    note(moved_out, range);
    for (std::uint64_t page = range.start; page < range.end; page += kPageSize) {
      if (pages_.place_of(page) == target_) pages_.move({page, page + kPageSize}, home_, Untouched::kSkip);
    }
    return 0;
  }
  void residency(AddressRange range, std::span<Uid> places) const noexcept override {
    for (std::size_t i = 0; i < places.size(); ++i) {
      if (pages_.place_of(range.start + i * kPageSize) == target_) places[i] = target_;
    }
  }
  void policy_changed(AddressRange range) noexcept override { note(changes, range); }

 private:
  void note(std::vector<AddressRange>& list, AddressRange range) {
    std::scoped_lock lock(pages_.mutex);
    list.push_back(range);
  }

  FakePages& pages_;
  Uid target_;
  Uid home_;
};

}  // namespace mirrorcl::hms
