// SPDX-License-Identifier: Apache-2.0
#include "mirror/migrator.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/raw_syscall.h"
#include "device/window.h"
#include "mirror/insist.h"
#include "mirror/mapped_file.h"

namespace mirrorcl::mirror {
namespace {

constexpr Range kEverything{0, ~std::uint64_t{0}};

// How long a page that cannot be shared stays where it was wanted.
constexpr std::uint32_t kRestUs = 200;

std::uint64_t read_max_map_count() {
  constexpr std::uint64_t kDefault = 65530;
  long fd = raw_syscall(SYS_openat, -100 /* AT_FDCWD */, "/proc/sys/vm/max_map_count", 0);
  if (fd < 0) return kDefault;
  char text[32] = {};
  long size = raw_syscall(SYS_read, fd, text, sizeof text - 1);
  raw_syscall(SYS_close, fd);
  std::uint64_t value = 0;
  for (long i = 0; i < size && text[i] >= '0' && text[i] <= '9'; ++i) {
    value = value * 10 + static_cast<std::uint64_t>(text[i] - '0');
  }
  return value != 0 ? value : kDefault;
}

}  // namespace

Migrator::Migrator(const Userfaultfd& host, const AddressSpace& space, HostEvents& events, HostAgent& agent,
                   CopyThreads& copiers, Live& live, const MirrorOptions& options, std::pmr::memory_resource* memory)
    : host_(host),
      space_(space),
      events_(events),
      agent_(agent),
      copiers_(copiers),
      live_(live),
      counters_(live.counters()),
      options_(options),
      memory_(memory),
      blocks_(memory, &live),
      staging_(host, copiers, options.spare_bytes),
      collapser_(memory),
      snapshot_blocks_(memory),
      moved_pages_(memory),
      announced_discards_(memory),
      at_home_(memory),
      grown_suspects_(memory),
      nodes_(memory) {
  for (unsigned i = 0; i < kMaxDevices; ++i) devices_[i].index = i;
}

Result<void> Migrator::open() {
  // A coherent run in the middle of a mapping makes three of one. A quarter of what the process may have is left to us.
  coherent_mappings_limit_ = read_max_map_count() / 4;
  bounce_ = static_cast<char*>(memory_->allocate(kBlockSize, kPageSize));
  if (auto opened = pinned_.open(); !opened) return opened;
  policies_.is_own_file(pinned_.fd());
  thread_ends_.open();
  nodes_.open();
  at_home_.reserve(64);
  collapser_.open();
  hms::PlacementRules rules;
  rules.share_after_returns = options_.coherent_after_returns;
  rules.max_pages = kBlockPages;
  rules.bulk_pages = kBulkPages;
  rules.hold_us = kRestUs;
  if (auto opened = placement_.open(memory_, rules); !opened) return opened;
  return staging_.open();
}

void Migrator::note(const AttachedDevice& device, Range range, hms::Action action, Live::To to,
                    hms::Reason reason) noexcept {
  if (to == Live::To::kDevice || action == hms::Action::kShare) thread_ends_.memory_moved();
  const auto counter = action == hms::Action::kShare ? &DeviceStatistics::coherent_upgrades
                       : to == Live::To::kDevice     ? &DeviceStatistics::pages_in
                                                     : &DeviceStatistics::pages_home;
  if (reason != hms::Reason::kWritten) counters_.add(device.index, counter, range.size / kPageSize);
  const bool home = to == Live::To::kHost;
  hms::Uid from = placement_.host_memory(home ? nodes_.node_of(range.start) : home_node_);
  hms::Uid target = hms::live::device_memory(device.index);
  if (home) std::swap(from, target);
  if (reason == hms::Reason::kFirstTouch) from = hms::live::kNowhere;
  // What the program wishes for was looked up for the fault at hand only.
  const bool was_decided =
      question_.address - range.start < range.size && reason != hms::Reason::kAsked && reason != hms::Reason::kEvicted;
  live_.note_decision({.range = range,
                       .requester = cause_.requester,
                       .from = from,
                       .to = target,
                       .access = cause_.access,
                       .action = action,
                       .reason = reason,
                       .evicts = was_decided && cause_.evicts,
                       .policy = was_decided ? &placement_.policy() : cause_.policy});
}

AttachedDevice* Migrator::attach(DeviceOperations* operations) noexcept {
  AttachedDevice* device = find(operations);
  if (device == nullptr) device = find(nullptr);  // a free record
  if (device == nullptr) return nullptr;
  device->operations = operations;
  device->shared_file = identity_of(shared(*device).fd());
  placement_.attach(device->index, !operations->capabilities().memory_cpu_mappable);
  if (operations->memory_fd() >= 0) policies_.is_own_file(operations->memory_fd());
  end_all_sharing(*device);
  return device;
}

Outcome Migrator::detach(AttachedDevice& device) noexcept {
  const Outcome outcome = bring_home(kEverything, device.set());
  if (outcome != Outcome::kDone) return outcome;
  end_all_sharing(device);
  device = AttachedDevice{.index = device.index};
  return Outcome::kDone;
}

// The device maps nothing but its own memory.
void Migrator::end_all_sharing(AttachedDevice& device) noexcept {
  end_sharing(kEverything, device.set());
  blocks_.for_each(kEverything, [&](Block& block) { end_coherent_sharing(block, PageMask::all(), device.set()); });
}

AttachedDevice* Migrator::find(const DeviceOperations* operations) noexcept {
  const auto found = std::find_if(devices_.begin(), devices_.end(),
                                  [&](const AttachedDevice& device) { return device.operations == operations; });
  return found == devices_.end() ? nullptr : &*found;
}

void Migrator::free_kept() noexcept {
  for (AttachedDevice& device : devices_) {
    if (device.operations != nullptr) device->free_kept();
  }
}

bool Migrator::has_devices() const noexcept {
  return std::any_of(devices_.begin(), devices_.end(),
                     [](const AttachedDevice& device) { return device.operations != nullptr; });
}

AttachedDevice& Migrator::holder(const Block& block, unsigned page) noexcept {
  unsigned device = block.owner(page);
  if (device == kMaxDevices) device = 0;
  while (device + 1 < kMaxDevices && !block.in_memory_of(device).test(page)) ++device;
  return devices_[device];
}

// No device maps or holds anything of `pages` any more; the masks stay.
void Migrator::empty_device_memory(const Block& block, const PageMask& pages) noexcept {
  for (AttachedDevice& device : devices_) {
    const PageMask gone = block.in_memory_of(device.index) & ~block.coherent(device.index) & pages;
    for (PageRun run = gone.next_run(0); run.count != 0; run = gone.next_run(run.end())) {
      on_device([&] { return device->unmap(block.range(run)); });
    }
    const PageMask coherent = block.coherent(device.index) & pages;
    for (PageRun run = coherent.next_run(0); run.count != 0; run = coherent.next_run(run.end())) {
      on_device([&] { return shared(device).drop(block.range(run)); });
    }
  }
}

void Migrator::unmapped(Range range) noexcept {
  expected_.forget();
  for (SpoiltWish& spoilt : spoilt_wishes_) {
    if (spoilt.address - range.start < range.size) spoilt.until_ns = 0;
  }
  counters_.add(&Statistics::events_unmap);
  drop_moved(range);
  end_watching(range);
  const std::uint64_t now = now_ns();
  policies_.unmapped(range);
  blocks_.for_each(range, [&](Block& block) {
    PageRun run = block.pages(range);
    end_coherent_sharing(block, PageMask(run));
    empty_device_memory(block, PageMask(run));
    churn_.note(block.base(), run, now);
    const PageMask coherent = block.coherent() & PageMask(run);
    if (coherent.test(run.end() - 1)) grown_suspects_.push_back(block.range(run).end());
    for (PageRun part = coherent.next_run(0); part.count != 0; part = coherent.next_run(part.end())) {
      coherent_mappings_ -= coherent_mappings_ > 0 ? 1 : 0;
    }
    block.forget(run);
    blocks_.remove_if_empty(block);
  });
}

void Migrator::moved(Range from, std::uint64_t to) noexcept {
  expected_.forget();
  counters_.add(&Statistics::events_remap);
  follow_moved(from, to);
  end_watching(from);
  const std::uint64_t now = now_ns();
  policies_.unmapped(from);
  std::uint64_t distance = to - from.start;  // modulo 2^64
  blocks_.for_each(from, [&](Block& block) {
    PageRun all = block.pages(from);
    if (block.coherent().test(all.end() - 1)) {
      grown_suspects_.push_back(block.range(all).end());
      grown_suspects_.push_back(block.range(all).end() + distance);
    }
    end_coherent_sharing(block, PageMask(all));
    // The registration has come along, unless we have ended that of what was mapped there before, not knowing yet.
    const PageMask tracked = block.registered() & ~block.coherent() & PageMask(all);
    for (PageRun run = tracked.next_run(0); run.count != 0; run = tracked.next_run(run.end())) {
      (void)host_.register_range({block.range(run).start + distance, run.count * kPageSize},
                                 kTrackMissing | kTrackWrites);
    }
    PageMask kept;  // device pages that are still shown by the application's mapping at the new address
    for (unsigned page = all.first; page < all.end(); ++page) {
      Range old_range = block.range(PageRun{page, 1});
      Range new_range{old_range.start + distance, kPageSize};
      if (!block.registered(page)) continue;
      PageState state = block.state(page);
      if (state == PageState::kCoherent) {
        coherent_mappings_ -= coherent_mappings_ > 0 ? 1 : 0;
        on_device([&] { return shared(holder(block, page)).unmap(old_range); });
        // Its entry has moved along, if it has not been dropped before.
        PageMask entry;
        const bool discarded =
            is_announced(block, page) && space_.present_pages(new_range, &entry) == 0 && entry.none();
        moved_pages_.push_back({block.owner(page), old_range.start, new_range.start, discarded});
        kept.set(page);
        continue;
      }
      Block& target = blocks_.find_or_create(new_range.start);
      PageRun target_run{page_in_block(new_range.start), 1};
      drop_snapshots(target, PageMask(target_run));  // of what was mapped there, whose end no event has told
      target.forget(target_run);
      target.mark_registered(target_run);
      watch(new_range, PROT_READ | PROT_WRITE);
      if (state == PageState::kDevice && carry(holder(block, page), old_range, new_range)) {
        target.host_to_device(block.owner(page), target_run);
      }
      if (state == PageState::kDevice) host_.wake(new_range);
    }
    empty_device_memory(block, PageMask(all) & ~kept);
    churn_.note(block.base(), all, now);
    block.forget(all);
    blocks_.remove_if_empty(block);
  });
}

// Copies one page of the device's memory to another address.
bool Migrator::carry(AttachedDevice& device, Range from, Range to) noexcept {
  int error = on_device([&] { return device->copy_out(from, bounce_); });
  if (error == 0) error = on_device([&] { return device->copy_in(to, bounce_); });
  if (error != 0)
    log_error("device memory of {:#x} could not be moved to {:#x}: error {}", from.start, to.start, -error);
  return error == 0;
}

// --- coherent pages on the move

void Migrator::follow_moved(Range from, std::uint64_t to) noexcept {
  for (MovedPage& page : moved_pages_) {
    if (page.address >= from.start && page.address < from.end()) page.address += to - from.start;
  }
}

void Migrator::drop_moved(Range range) noexcept {
  std::erase_if(moved_pages_, [&](const MovedPage& page) {
    if (page.address < range.start || page.address >= range.end()) return false;
    on_device([&] { return shared(devices_[page.device]).drop({page.origin, kPageSize}); });
    return true;
  });
}

Outcome Migrator::place_moved() noexcept {
  while (!moved_pages_.empty()) {
    MovedPage page = moved_pages_.back();
    // Taken away from the application first, so that nothing is written there any more; what it touches then faults and
    // waits for us.
    int error = mappings_.replace({page.address, kPageSize}, HostAgent::Expect::kShared, HostMappings::kNothing);
    if (passes(error)) return Outcome::kAgain;
    moved_pages_.pop_back();
    if (error != 0) {
      log_error(
          "a coherent page moved from {:#x} to {:#x} could not be followed; the device no longer sees it: error {}",
          page.origin, page.address, -error);
      continue;
    }
    place(page);
  }
  return take_back_suspects();
}

void Migrator::place(const MovedPage& page) noexcept {
  Range origin{page.origin, kPageSize};
  Range range{page.address, kPageSize};
  Block& block = blocks_.find_or_create(range.start);
  PageRun run{page_in_block(range.start), 1};
  drop_snapshots(block, PageMask(run));
  block.forget(run);
  block.mark_registered(run);
  watch(range, PROT_READ | PROT_WRITE);
  AttachedDevice& device = devices_[page.device];
  if (!page.discarded) {
    int error = on_device([&] { return shared(device).read(origin, bounce_); });
    if (error == 0) error = on_device([&] { return device->copy_in(range, bounce_); });
    if (error == 0) block.host_to_device(device.index, run);
    if (error != 0)
      log_error("the coherent page of {:#x} could not be moved to {:#x}: error {}", origin.start, range.start, -error);
  }
  on_device([&] { return shared(device).drop(origin); });
  host_.wake(range);
}

PageState Migrator::state(std::uint64_t address) noexcept {
  const Block* block = blocks_.find(address);
  return block == nullptr ? PageState::kHost : block->state(page_in_block(address));
}

int Migrator::peek(std::uint64_t address, void* destination, std::uint64_t size) noexcept {
  auto* to = static_cast<char*>(destination);
  while (size != 0) {
    const std::uint64_t offset = address % kPageSize;
    const std::uint64_t part = std::min(size, kPageSize - offset);
    const Range page{page_down(address), kPageSize};
    const PageState where = state(address);
    int error;
    if (where == PageState::kDevice || where == PageState::kCoherent) {
      AttachedDevice& device = holder(*blocks_.find(address), page_in_block(address));
      error = where == PageState::kDevice ? on_device([&] { return device->copy_out(page, bounce_); })
                                          : on_device([&] { return shared(device).read(page, bounce_); });
      __builtin_memcpy(to, bounce_ + offset, part);
    } else {
      error = space_.read(address, to, part);
    }
    if (error != 0) return error;
    address += part;
    to += part;
    size -= part;
  }
  return 0;
}

}  // namespace mirrorcl::mirror
