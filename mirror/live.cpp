// SPDX-License-Identifier: Apache-2.0
#include "mirror/live.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <new>

#include "base/log.h"
#include "mirror/migrator.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace mirrorcl::mirror {

namespace layout = hms::live;

struct Live::Object {
  layout::Header header;
  alignas(64) Counters::Values counters;
  alignas(64) layout::Name counter_names[Counters::kAll];
  alignas(64) layout::Histogram histograms[kHistograms];
  alignas(64) layout::Device devices[layout::kMaxDevices];
  alignas(kPageSize) layout::Decision decisions[kDecisions];
  alignas(kPageSize) layout::Block blocks[kBlocks];
  alignas(kPageSize) layout::Decision allocations[kAllocations];
  alignas(kPageSize) char topology[kTopologySize];
};

namespace {

void copy_name(char* to, std::size_t size, std::string_view name) noexcept {
  const std::size_t length = std::min(name.size(), size - 1);
  memcpy(to, name.data(), length);
  memset(to + length, 0, size - length);
}

template <typename T>
void store(T& to, T value, std::memory_order order = std::memory_order_relaxed) noexcept {
  std::atomic_ref<T>(to).store(value, order);
}

// Entries are written and read as words.
using Word = std::uint64_t __attribute__((may_alias));

// Writes `fresh` to an entry that others read meanwhile. The sequence is its first member; `sequence` is the new one.
template <typename Entry>
void write_entry(Entry& entry, Entry fresh, std::uint32_t sequence) noexcept {
  static_assert(offsetof(Entry, sequence) == 0 && sizeof(Entry) % 8 == 0 && alignof(Entry) == 8);
  store(entry.sequence, sequence - 1);
  std::atomic_thread_fence(std::memory_order_release);
  fresh.sequence = sequence - 1;
  std::uint64_t words[sizeof(Entry) / 8];
  __builtin_memcpy(words, &fresh, sizeof fresh);
  auto* to = reinterpret_cast<Word*>(&entry);
  for (std::size_t i = 0; i < std::size(words); ++i) __atomic_store_n(to + i, words[i], __ATOMIC_RELAXED);
  store(entry.sequence, sequence, std::memory_order_release);
}

}  // namespace

// The shared memory lies in the arena's place for it, so that it is pinned like all else there.
Live::Object* Live::place(PinnedArena& arena, UniqueFd* file) {
  void* memory = arena.allocate(sizeof(Object), kPageSize);
  const auto shared = [&] {
    file->reset(memfd_create(layout::kObjectName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    return *file && ftruncate(file->get(), sizeof(Object)) == 0 &&
           mmap(memory, sizeof(Object), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file->get(), 0) == memory;
  };
  if (!shared()) {
    log_info("other processes cannot see this one's statistics: {}", strerrordesc_np(errno));
    file->reset();
    memset(memory, 0, offsetof(Object, topology));
    return new (memory) Object;
  }
  // A forked child would write into its parent's.
  madvise(memory, sizeof(Object), MADV_DONTFORK);
  // Before 5.1 there is no such seal, and only good manners keep others from writing.
  if (fcntl(file->get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    fcntl(file->get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  }
  // The service thread need not be the first to touch what it writes most. Of the others only what is used takes
  // memory.
  madvise(memory, offsetof(Object, blocks), MADV_POPULATE_WRITE);
  return new (memory) Object;
}

Live::Live(PinnedArena& arena) : object_(place(arena, &file_)), counters_(object_->counters) {
  layout::Header& header = object_->header;
  const auto table = [this](const void* start, std::size_t count, std::size_t stride) {
    const auto offset = reinterpret_cast<const char*>(start) - reinterpret_cast<const char*>(object_);
    return layout::Table{static_cast<std::uint64_t>(offset), static_cast<std::uint32_t>(count),
                         static_cast<std::uint32_t>(stride)};
  };
  const auto table_of = [&](const auto& array) { return table(array, std::size(array), sizeof array[0]); };
  header.version = layout::kVersion;
  header.size = sizeof header;
  header.pid = getpid();
  header.started_ns = now_ns();
  header.counter_names = table_of(object_->counter_names);
  header.counters = table(&object_->counters, Counters::kAll, sizeof(std::uint64_t));
  header.histograms = table_of(object_->histograms);
  header.decisions = table_of(object_->decisions);
  header.blocks = table_of(object_->blocks);
  header.devices = table_of(object_->devices);
  header.topology = table_of(object_->topology);
  header.allocations = table_of(object_->allocations);
  for (std::size_t i = 0; i < Counters::kAll; ++i) {
    copy_name(object_->counter_names[i].text, layout::kNameSize, Counters::name(i));
  }
  constexpr struct {
    const char* name;
    const char* unit;
  } kKinds[kHistograms] = {{"device_fault_isolated", "ns"},  {"device_fault_bulk", "ns"},
                           {"cpu_fault_isolated", "ns"},     {"cpu_fault_bulk", "ns"},
                           {"migration_to_device", "bytes"}, {"migration_to_host", "bytes"}};
  for (std::size_t i = 0; i < kHistograms; ++i) {
    copy_name(object_->histograms[i].name, layout::kNameSize, kKinds[i].name);
    copy_name(object_->histograms[i].unit, sizeof object_->histograms[i].unit, kKinds[i].unit);
  }
  for (layout::Device& device : object_->devices) device.initiator = device.target = hms::kNoUid;
  // Now it can be read.
  store(header.magic, layout::kMagic, std::memory_order_release);
}

Live::~Live() {
  store(object_->header.ended, std::uint32_t{1}, std::memory_order_release);
}

layout::Decision Live::decision_of(const DecisionNote& note, std::uint64_t time_ns) noexcept {
  layout::Decision decision{};
  decision.action = static_cast<std::uint8_t>(note.action);
  decision.reason = static_cast<std::uint8_t>(note.reason);
  decision.access = static_cast<std::uint8_t>(note.access);
  decision.flags = note.evicts ? layout::Decision::kEvicts : std::uint8_t{0};
  decision.time_ns = time_ns;
  decision.address = note.range.start;
  decision.pages = static_cast<std::uint32_t>(note.range.size / kPageSize);
  decision.requester = note.requester;
  decision.from = note.from;
  decision.to = note.to;
  decision.preferred = hms::kNoUid;
  if (note.policy != nullptr && !note.policy->empty()) {
    const hms::Policy& policy = *note.policy;
    decision.flags |= layout::Decision::kHasPolicy;
    if (policy.read_mostly) decision.flags |= layout::Decision::kReadMostly;
    decision.preferred = policy.preferred;
    decision.bind_count = static_cast<std::uint16_t>(std::min<std::size_t>(policy.bind.size(), 0xffff));
    decision.accessed_by_count = static_cast<std::uint16_t>(std::min<std::size_t>(policy.accessed_by.size(), 0xffff));
    const std::size_t listed = std::min(policy.bind.size(), layout::Decision::kBindListed);
    for (std::size_t i = 0; i < listed; ++i) decision.bind[i] = policy.bind[i];
  }
  return decision;
}

void Live::note_decision(const DecisionNote& note) noexcept {
  static_assert((kDecisions & (kDecisions - 1)) == 0);
  const auto lap = static_cast<std::uint32_t>(decisions_ / kDecisions);
  write_entry(object_->decisions[decisions_ % kDecisions], decision_of(note, now_ns_), 2 * (lap + 1));
  store(object_->header.decisions_made, ++decisions_, std::memory_order_release);
}

void Live::note_allocation(const DecisionNote& note) noexcept {
  layout::Decision decision = decision_of(note, now_ns());
  decision.flags |= layout::Decision::kAllocation;
  const auto lap = static_cast<std::uint32_t>(allocations_ / kAllocations);
  write_entry(object_->allocations[allocations_ % kAllocations], decision, 2 * (lap + 1));
  store(object_->header.allocations_made, ++allocations_, std::memory_order_release);
}

void Live::note_value(Kind kind, std::uint64_t value) noexcept {
  layout::Histogram& histogram = object_->histograms[kind];
  const auto bucket = std::min<std::size_t>(static_cast<std::size_t>(std::bit_width(value)), layout::kBuckets - 1);
  store(histogram.buckets[bucket], histogram.buckets[bucket] + 1);
  store(histogram.count, histogram.count + 1);
  store(histogram.sum, histogram.sum + value);
  if (value > histogram.max) store(histogram.max, value);
}

void Live::note_migration(To to, unsigned pages, std::uint64_t bytes) noexcept {
  pages_ += pages;
  if (bytes != 0) note_value(to == To::kDevice ? kToDevice : kToHost, bytes);
}

void Live::note_try(Fault fault, bool served, std::uint64_t now_ns) noexcept {
  const bool bulk = pages_ >= kBulkPages;
  const Kind kind = fault == Fault::kDevice ? (bulk ? kDeviceBulk : kDeviceIsolated) : bulk ? kCpuBulk : kCpuIsolated;
  if (served) note_value(kind, now_ns - std::min(now_ns_, now_ns));
  begin(now_ns);
}

layout::Block* Live::list_block(std::uint64_t base) noexcept {
  std::uint32_t used = object_->header.blocks_used;
  std::uint32_t index = free_block_;
  if (index != kNoBlock) {
    free_block_ = object_->blocks[index].reserved;
  } else if (used < kBlocks) {
    index = used;
  } else {
    store(object_->header.blocks_unlisted, object_->header.blocks_unlisted + 1);
    return nullptr;
  }
  layout::Block& entry = object_->blocks[index];
  layout::Block fresh{};
  fresh.base = base;
  write_entry(entry, fresh, entry.sequence + 2);
  if (index == used) store(object_->header.blocks_used, used + 1, std::memory_order_release);
  return &entry;
}

void Live::unlist_block(layout::Block* entry) noexcept {
  if (entry == nullptr) return;
  layout::Block unused{};
  unused.reserved = free_block_;
  write_entry(*entry, unused, entry->sequence + 2);
  free_block_ = static_cast<std::uint32_t>(entry - object_->blocks);
}

void Live::show_pages(layout::Block& entry, std::uint32_t device, const layout::Block::Pages& pages) noexcept {
  if (device >= layout::kMaxDevices) return;
  static_assert(sizeof pages == sizeof(std::uint64_t));
  const std::uint32_t sequence = entry.sequence;
  store(entry.sequence, sequence + 1);
  std::atomic_thread_fence(std::memory_order_release);
  auto* to = reinterpret_cast<Word*>(&entry.devices[device]);
  __atomic_store_n(to, std::bit_cast<std::uint64_t>(pages), __ATOMIC_RELAXED);
  store(entry.sequence, sequence + 2, std::memory_order_release);
}

void Live::publish_device(std::uint32_t index, std::string_view name, hms::Uid initiator, hms::Uid target,
                          std::uint64_t memory_size) noexcept {
  if (index >= layout::kMaxDevices) return;
  layout::Device device{};
  device.initiator = initiator;
  device.target = target;
  device.attached = 1;
  device.memory_size = memory_size;
  copy_name(device.name, sizeof device.name, name);
  write_entry(object_->devices[index], device, object_->devices[index].sequence + 2);
}

void Live::withdraw_device(std::uint32_t index) noexcept {
  if (index >= layout::kMaxDevices) return;
  layout::Device device{};
  device.initiator = hms::kNoUid;
  device.target = hms::kNoUid;
  write_entry(object_->devices[index], device, object_->devices[index].sequence + 2);
}

void Live::publish_topology(std::string_view json) noexcept {
  if (json.size() > kTopologySize) {
    log_info("the topology takes {} bytes, too many to be published for other processes", json.size());
    return;
  }
  layout::Header& header = object_->header;
  const std::uint32_t sequence = header.topology_sequence;
  store(header.topology_sequence, sequence + 1);
  std::atomic_thread_fence(std::memory_order_release);
  store(header.topology_size, static_cast<std::uint32_t>(json.size()));
  for (std::size_t i = 0; i < json.size(); ++i) store(object_->topology[i], json[i]);
  store(header.topology_sequence, sequence + 2, std::memory_order_release);
}

}  // namespace mirrorcl::mirror
