// SPDX-License-Identifier: Apache-2.0
// The mirror: keeps devices' views of the application's address space equal to the application's own. It answers
// device page faults by migrating or mapping pages, answers CPU faults on pages that are away, applies the host's
// address-space events, and makes pages that go back and forth coherent. No OpenCL in it.
//
// Usage: start() once per process, attach() devices, call drain_events() before each launch. Everything else happens
// by itself in the service thread. Start is refused with a reason where the kernel or the permissions do not allow it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.h"
#include "hms/placement.h"
#include "hms/policy.h"
#include "hms/topology.h"
#include "mirror/device/operations.h"
#include "mirror/page_mask.h"
#include "mirror/statistics.h"

namespace mirrorcl::mirror {

struct MirrorOptions {
  // A page that returned to the host this often within `coherent_window_ms` becomes coherent at its next return.
  std::uint32_t coherent_after_returns = 2;
  std::uint32_t coherent_window_ms = 100;
  // A page does not become coherent within this time after something at its address was unmapped or moved away.
  std::uint32_t coherent_not_before_ms = 200;
  // Share of a region, in percent, that must be resident or faulting on a device for the whole region to migrate.
  std::uint32_t density_percent = 51;
  // Bring pages to a device ahead of its faults where these walk through memory at a constant distance.
  bool bring_ahead = true;
  // Bring what waiting launches name also while the machine has no CPU to spare.
  bool expect_on_busy_machine = false;
  // Take pages out of the application with UFFDIO_MOVE where the kernel has it (6.8). Without it pages are
  // write-protected and copied, which is slower; tests cover both.
  bool use_move = true;
  // Memory, in bytes, that the mirror keeps at most for pages that come home, until nothing has moved for a while.
  std::uint64_t spare_bytes = 256 << 20;
};

// What becomes of pages that nobody has touched yet when a range is brought to a device.
enum class Untouched : std::uint8_t { kSkip, kAllocate };

// Memory that a launch names.
struct NamedMemory {
  std::uint64_t address;
  std::uint64_t size;  // bytes; 0: not known
};

// What a launch that cannot begin yet waits for: that *word >= value. The word lies in memory that never migrates and
// stays mapped. Null: the launch does not wait.
struct LaunchWait {
  const std::atomic<std::uint64_t>* word = nullptr;
  std::uint64_t value = 0;

  bool is_over() const noexcept { return word == nullptr || word->load(std::memory_order_acquire) >= value; }
};

class Mirror {
 public:
  // Says whether this kernel and these permissions allow a mirror, without starting anything. An error has the reason
  // in one sentence that also says how to grant what is missing; else what a mirror has to do without on this kernel,
  // in a few words, or nothing. Takes well under a millisecond.
  static Result<std::string_view> probe();

  // Reserves the window (once per process), starts the service thread and the host agent. The mirror lives as long as
  // the process does.
  static Result<std::unique_ptr<Mirror>> start(const MirrorOptions& options = {});
  virtual ~Mirror() = default;

  // Serves `device` from now on, beside those that are attached already (kNotSupported: there are kMaxDevices). The
  // device must outlive the mirror or be detached. A restarted device (new fault_fd and lost_fd) is attached again; its
  // mappings are rebuilt by faults.
  virtual Result<void> attach(DeviceOperations& device) = 0;
  // Brings home what `device`, which must be idle, holds, and serves it no longer. 0; -ENODEV: it is not attached;
  // -EIO: its memory cannot be read, and it stays.
  virtual int detach(DeviceOperations& device) noexcept = 0;

  // Returns once every host event whose system call has changed something has been applied, though it may not have
  // returned to its caller (another thread may have got the memory), and so have changes of protection, which raise no
  // event. Costs a system call, and a query of the kernel for each mapping that devices have pages of. Call before each
  // launch.
  virtual void drain_events() noexcept = 0;

  // What lies at `address` need not be expected: it came to `device` when it was expected last, or could not, and
  // nothing has left a device since. Any thread; a few loads.
  virtual bool has_come(const DeviceOperations& device, std::uint64_t address) const noexcept = 0;
  // A launch that waits will use `memory` on `device`: it begins to come there, as far as that hurts nobody
  // (expected.h), until the wait is over. Nothing is promised and nothing waited for. An access that follows at once is
  // served sooner without (docs/decisions/0012).
  virtual void expect(const DeviceOperations& device, std::span<const NamedMemory> memory,
                      const LaunchWait& until) noexcept = 0;
  // A wait that is over with close_wait() of its value, or sooner if many others are opened and closed meanwhile.
  virtual LaunchWait open_wait() noexcept = 0;
  virtual void close_wait(std::uint64_t value) noexcept = 0;

  // Drops the read-only snapshots of unmirrorable memory, so that the next launch sees its present contents.
  virtual void drop_snapshots() noexcept = 0;

  // Brings every page of `range` home to the host. Its blocks are forgotten when nothing has happened for a while.
  virtual void bring_home(Range range) noexcept = 0;
  // Moves the pages of `range` to `device`, those that can be moved. 0; -ENODEV: it is not attached; -EBUSY: everything
  // is held at home.
  virtual int bring_in(DeviceOperations& device, Range range, Untouched untouched) noexcept = 0;
  // Which pages live on `device`, or on both sides: of the 2 MiB block around `address`, and of those behind it.
  virtual void device_pages(DeviceOperations& device, std::uint64_t address, std::span<PageMask> blocks) noexcept = 0;
  PageMask device_pages(DeviceOperations& device, std::uint64_t address) noexcept {
    PageMask pages;
    device_pages(device, address, {&pages, 1});
    return pages;
  }
  // The pages of `range` stay with the application for good: memory that pinned threads touch. What devices have of it
  // comes home first.
  virtual void never_migrate(Range range) noexcept = 0;

  // Whoever unmaps memory or moves it away from now on takes its policy with it from `policies`, whose own memory must
  // never migrate; null: no more. As far as policy_watch.h can.
  virtual void follow_policies(hms::PolicyTable* policies) noexcept = 0;
  // There is a new policy in `range`. Before it was made, drain_events(): else an unmap of what was there before might
  // take it away.
  virtual void watch_policies(Range range) noexcept = 0;

  // Brings everything home and holds device faults until release_hold(). The host owns all pages meanwhile. Nests.
  virtual void hold_home() noexcept = 0;
  virtual void release_hold() noexcept = 0;

  // Decisions where pages live follow `topology` from now on, in which `devices`, attached ones, are; others go on as
  // before. kOutOfHostMemory: it is too large, or kInvalidArgument; then nothing changes.
  struct DeviceUids {
    const DeviceOperations* device;
    hms::Uid initiator;
    hms::Uid target;
  };
  virtual Result<void> place_by(const hms::Topology& topology, std::span<const DeviceUids> devices) = 0;

  // Memory that is coherent from birth (SVM and buffer allocations) is none of the mirror's business: the device never
  // faults on it. Nothing to call.

  virtual Statistics statistics() const noexcept = 0;
  // Of one attached device; zeros: it is not attached.
  virtual DeviceStatistics statistics(const DeviceOperations& device) const noexcept = 0;

  // For other processes that look at this one (hms/live_layout.h): what the attached `device` is in the topology that
  // was published last (kNoUid: not in it), and that topology, as hms::to_json() writes it.
  virtual void publish_device(const DeviceOperations& device, std::string_view name, hms::Uid initiator,
                              hms::Uid target) noexcept = 0;
  virtual void publish_topology(std::string_view json) noexcept = 0;
  // Memory that is coherent from birth has been allocated for `device`, which is attached, as `decision` says:
  // `target` is where it lies (kNoUid: in the device's own memory), `policy` what the program asked for.
  struct AllocationNote {
    Range range;  // pages
    const DeviceOperations* device;
    hms::Uid target = hms::kNoUid;
    hms::Access access = hms::Access::kWrite;
    hms::Reason reason = hms::Reason::kFirstTouch;
    hms::Policy policy{};
  };
  virtual void note_allocation(const AllocationNote& note) noexcept = 0;
};

}  // namespace mirrorcl::mirror
