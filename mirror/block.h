// SPDX-License-Identifier: Apache-2.0
// A block: 2 MiB of the application's address space of which a device has touched something, and where each of its
// pages lives.
//
//   state      page lives in        masks                 CPU access               device access
//   host       A's own page         none of the below     native                   fault: migrate in, or snapshot
//   device     device memory        device                fault: migrate back,     native
//                                                         duplicate (bulk reads)
//                                                         or make coherent
//   duplicated both, both write-    duplicated            reads native,            reads native,
//              protected                                  writes fault: to host    writes fault: to device
//   coherent   device memory, also  coherent              native                   native
//              mapped into A
//   snapshot   A's own page, and a  snapshot              native                   reads native (the copy may be old),
//              read-only copy                                                      writes fault
//
// There may be several devices. A page is in state device or coherent on one of them at most, its owner; copies may be
// on several: read-only duplicates of what the owner or the application has, or snapshots. Whoever has a page of which
// there are duplicates has it write-protected. Other devices than the owner may map coherent pages from its memory. The
// masks are kept per device; the questions without a device concern any of them.
//
// Transitions are named after where the pages come from and go to, and assert their predecessor. Nothing else changes
// the masks.
//
// Locking: service thread only.
#pragma once

#include <array>
#include <cstdint>

#include "hms/live_layout.h"
#include "mirror/device/operations.h"
#include "mirror/page_mask.h"
#include "mirror/policy.h"

namespace mirrorcl::mirror {

// Devices that one mirror serves at once.
inline constexpr unsigned kMaxDevices = 4;
// A set bit means: the device of that index.
using DeviceSet = std::uint8_t;
inline constexpr DeviceSet kAllDevices = (1U << kMaxDevices) - 1;

enum class PageState : std::uint8_t { kHost, kDevice, kDuplicated, kCoherent, kSnapshot };
const char* page_state_name(PageState state) noexcept;

class Block {
 public:
  explicit Block(std::uint64_t base_address) : base_(base_address) {}

  std::uint64_t base() const { return base_; }
  Range range() const { return {base_, kBlockSize}; }
  Range range(PageRun run) const { return {base_ + run.first * kPageSize, run.count * kPageSize}; }
  // The pages of this block that lie in `range`; count is 0 if none does.
  PageRun pages(Range range) const;

  PageState state(unsigned page) const;
  bool registered(unsigned page) const { return registered_.test(page); }

  // A set bit means: the page's host range is registered with the application's userfaultfd, so that a missing page
  // faults to the service thread. A cleared bit: accesses to missing pages are the kernel's business.
  const PageMask& registered() const { return registered_; }
  // A set bit means: the contents are in this device's memory; the host has no page. Others may have duplicates.
  const PageMask& device(unsigned device) const { return on_[device].device; }
  // A set bit means: this device's memory holds the same as the owner's, or, if there is none, the host's page; both
  // are write-protected.
  const PageMask& duplicated(unsigned device) const { return on_[device].duplicated; }
  // A set bit means: the page is this device's memory, mapped into the application at the same address.
  const PageMask& coherent(unsigned device) const { return on_[device].coherent; }
  // A set bit means: this device's memory holds a read-only copy of memory that cannot be mirrored.
  const PageMask& snapshot(unsigned device) const { return on_[device].snapshot; }
  // A set bit means: this device maps a coherent page from the memory of another, and holds nothing of it.
  const PageMask& sharing(unsigned device) const { return on_[device].sharing; }
  // Pages that hold anything but snapshots in this device's memory.
  PageMask tracked(unsigned device) const {
    const OnDevice& on = on_[device];
    return on.device | on.duplicated | on.coherent;
  }
  PageMask in_memory_of(unsigned device) const { return tracked(device) | on_[device].snapshot; }
  // The device in whose memory `page` is in state device or coherent; kMaxDevices: none.
  unsigned owner(unsigned page) const;

  // On any device.
  PageMask device() const { return on_any(&OnDevice::device); }
  PageMask duplicated() const { return copied() & ~device(); }  // with the host
  PageMask copied() const { return on_any(&OnDevice::duplicated); }
  PageMask coherent() const { return on_any(&OnDevice::coherent); }
  PageMask snapshot() const { return on_any(&OnDevice::snapshot); }
  // A set bit means: the page came home from a device and has not gone back since.
  const PageMask& returned() const { return returned_; }
  // A set bit means: the application discards this host page (MADV_DONTNEED), but the kernel may not have done it yet.
  const PageMask& discarding() const { return discarding_; }
  // A set bit means: the page must never become coherent: it holds a thread's control block, whose futex the kernel
  // finds by the kind of memory, or a device that uses it cannot map another's memory.
  const PageMask& stays_private() const { return stays_private_; }
  // Pages that hold anything in device memory.
  PageMask in_device_memory() const { return needs_tracking() | snapshot(); }
  // Pages whose host range must stay registered, or an access of the application would miss what the device holds.
  PageMask needs_tracking() const { return device() | copied() | coherent(); }
  PageMask on_host() const { return ~in_device_memory(); }
  // Nothing is known about this block any more: it may be destroyed.
  bool empty() const { return registered_.none() && in_device_memory().none(); }

  // --- transitions
  void host_to_device(unsigned device, PageRun run);
  void device_to_host(unsigned device, PageRun run);
  void device_to_duplicated(unsigned device, PageRun run);
  void duplicated_to_device(unsigned device, PageRun run);
  // Another holder's copies stay.
  void drop_duplicate(unsigned device, PageRun run);
  // `from` owns the pages, of which nobody but `to` may have duplicates.
  void device_to_device(unsigned from, unsigned to, PageRun run);
  // The device gets a copy of what another holds.
  void add_duplicate(unsigned device, PageRun run);
  void device_to_coherent(unsigned device, PageRun run);
  void coherent_to_device(unsigned device, PageRun run);
  void share_coherent(unsigned device, PageRun run);
  void end_coherent_sharing(unsigned device, PageRun run);
  void host_to_duplicated(unsigned device, PageRun run);
  void host_to_snapshot(unsigned device, PageRun run);
  void snapshot_to_host(unsigned device, PageRun run);
  // The contents are gone by the application's own wish; the host shows zeros next.
  void device_to_discarded(unsigned device, PageRun run);

  void mark_registered(PageRun run) { registered_.set(run); }
  void mark_unregistered(PageRun run);
  void mark_discarding(const PageMask& pages, std::uint64_t now_ns);
  void clear_discarding(PageRun run) { discarding_.clear(run); }
  std::uint64_t discarding_since_ns() const { return discarding_since_ns_; }
  void mark_stays_private(unsigned page) { stays_private_.set(page); }
  // The address range is no longer what it was (unmapped, moved away): everything about the pages is forgotten.
  void forget(PageRun run);

  // Devices that have faulted here since eviction from their memory last looked.
  DeviceSet recently_used = 0;
  // When pages were last given to a device, and to which, and brought home from one; 0 before.
  std::uint64_t granted_ns = 0;
  unsigned granted_to = 0;
  std::uint64_t came_home_ns = 0;
  DeviceSet large_on = 0;  // the device, if one, that had all of it in one large page when it went there last
  bool was_huge = false;   // all of it went to a device as one huge page
  bool was_whole = false;  // it has come home as a whole, in small pages
  // What the application does with copies that it gets because it reads much here, of which the device keeps the other:
  // nothing is known; it only reads them; or it writes them next, so that a copy costs it a second fault. Then it gets
  // the pages themselves, for so many times until that is tried again.
  static constexpr std::uint8_t kNotKnown = 0xff;
  std::uint8_t writes_expected = kNotKnown;
  std::int16_t home_node = -1;  // the NUMA node where pages were that went to a device last; -1: not known
  // Lazily attached by the migrator; null until a page has returned.
  ReturnCounter* returns = nullptr;
  // Where other processes see how many pages are where; null: nowhere.
  hms::live::Block* shown = nullptr;

 private:
  void show(unsigned device) const noexcept;
  struct OnDevice {
    PageMask device;
    PageMask duplicated;
    PageMask coherent;
    PageMask snapshot;
    PageMask sharing;
  };
  PageMask on_any(PageMask OnDevice::*mask) const;

  std::uint64_t base_;
  std::array<OnDevice, kMaxDevices> on_;
  PageMask registered_;
  PageMask returned_;
  PageMask discarding_;
  PageMask stays_private_;
  std::uint64_t discarding_since_ns_ = 0;
};

}  // namespace mirrorcl::mirror
