// SPDX-License-Identifier: Apache-2.0
// The service thread: one epoll loop over the application's userfaultfd, the devices' faults, their death, and requests
// of application threads. It owns everything that the mirror knows.
#pragma once

#include <algorithm>
#include <array>
#include <memory_resource>
#include <span>
#include <vector>

#include "base/futex.h"
#include "base/unique_fd.h"
#include "mirror/live.h"
#include "mirror/migrator.h"
#include "mirror/notifier.h"
#include "mirror/pinned_arena.h"
#include "mirror/placement_maps.h"
#include "mirror/spare_cpus.h"

namespace mirrorcl::mirror {

struct Request {
  enum class Kind : std::uint32_t {
    kAttach,
    kDetach,
    kDropSnapshots,
    kLayout,
    kBringHome,
    kBringIn,
    kDevicePages,
    kPlaceBy,
    kNeverMigrate,
    kFollowPolicies,
    kWatchPolicies,
    kHold,
    kRelease,
    kStop
  };
  Kind kind;
  Range range{0, 0};
  DeviceOperations* device = nullptr;
  Untouched untouched = Untouched::kSkip;
  PlacementSource placement{};
  hms::PolicyTable* policies = nullptr;
};

class ServiceThread {
 public:
  // Lies in `arena`, whose region must be mapped.
  ServiceThread(PinnedArena& arena, Userfaultfd host, AddressSpace space, const MirrorOptions& options);
  Result<void> start();

  // --- for application threads
  // Posts `request` and returns its result (0 or -errno) once it is done. That of kDevicePages, about at most
  // kMostBlocks whole blocks, is in `pages`, one for each.
  int request(const Request& request, std::span<PageMask> pages = {}) noexcept;
  static constexpr std::size_t kMostBlocks = 16;
  void drain_events() noexcept { events_.wait_settled(); }
  bool has_come(const DeviceOperations& device, std::uint64_t address) noexcept;
  void expect(const DeviceOperations& device, std::span<const NamedMemory> memory, const LaunchWait& until) noexcept;
  Expected& expected() noexcept { return migrator_.expected(); }
  bool has_snapshots() const noexcept { return migrator_.has_snapshots(); }
  bool layout_unchanged() noexcept { return migrator_.layout_unchanged(); }
  Statistics statistics() const noexcept { return live_.counters().read(); }
  DeviceStatistics statistics(const DeviceOperations& device) noexcept;
  // One thread at a time.
  Live& live() noexcept { return live_; }
  // Mirror::place_by(). One thread at a time.
  Result<void> place_by(const hms::Topology& topology, std::span<const Mirror::DeviceUids> devices);
  // After kStop: waits until both threads have ended.
  void join() noexcept;
  // In the child of a fork, where the threads do not exist: closes what would keep the parent's objects alive.
  void close_in_child() noexcept;

 private:
  struct Slot {
    static constexpr std::uint32_t kFree = 0;
    static constexpr std::uint32_t kClaimed = 1;
    static constexpr std::uint32_t kPosted = 2;
    static constexpr std::uint32_t kServing = 3;
    static constexpr std::uint32_t kDone = 4;
    FutexWord state{kFree};
    Request request{};
    int result = 0;
    std::array<PageMask, kMostBlocks> pages;  // result of kDevicePages
  };
  static constexpr std::size_t kSlots = 64;
  enum class Source : std::uint32_t { kHost, kRequests, kDeviceFaults, kDeviceLost };
  // A device's descriptors, as they are watched, and its faults.
  struct DeviceEvents {
    explicit DeviceEvents(std::pmr::memory_resource* memory) : faults(memory) {}
    int fault_fd = -1;
    int lost_fd = -1;
    bool watching_faults = false;
    bool ready = false;                    // the last wait found faults
    std::pmr::vector<DeviceFault> faults;  // to be served, in this order
  };
  // How long to wait when something must be tried again, because the thread whose event we read is not yet past it.
  static constexpr std::int64_t kRetryNs = 30'000;
  // How long nothing has happened, and what is given back then: what costs little to get again, then all.
  enum class Rest : std::uint8_t { kNone, kShort, kLong };
  static constexpr std::int64_t kShortRestNs = 200'000'000;
  static constexpr std::int64_t kLongRestNs = 10'000'000'000;
  // How long nothing has happened before blocks are put together.
  static constexpr std::int64_t kCollapseNs = 1'000'000;
  // So long after a fault nothing comes ahead: there may be more of them.
  static constexpr std::uint64_t kQuietNs = 50'000;
  // And so long after all CPUs were seen busy.
  static constexpr std::uint64_t kBusyNs = 1'000'000;

  void run() noexcept;
  void wait() noexcept;
  std::int64_t patience_ns(bool busy) const noexcept;
  void rest() noexcept;
  void look_after_threads() noexcept;
  void serve_host_faults() noexcept;
  void serve_device_faults() noexcept;
  void serve_device_faults(AttachedDevice& device, DeviceEvents& events) noexcept;
  bool has_device_faults() const noexcept;
  void serve_requests() noexcept;
  void serve_expected() noexcept;
  // Until when nothing comes ahead (now_ns()).
  std::uint64_t expect_from_ns() const noexcept { return std::max(served_fault_ns_ + kQuietNs, busy_until_ns_); }
  // True when the request is finished, else it is continued later.
  bool serve_request(Slot& slot) noexcept;
  bool continue_bringing_home(Range range, Migrator::Tracking tracking = Migrator::Tracking::kEnd) noexcept;
  // The device's index, or -errno.
  int attach(DeviceOperations* device) noexcept;
  // True when it is finished, with its result.
  bool detach(AttachedDevice& device, int* result) noexcept;
  void stop_watching(unsigned device) noexcept;
  void device_lost(unsigned device) noexcept;
  int watch(int fd, Source source, unsigned device = 0) noexcept;
  void watch_device_faults(bool wanted) noexcept;
  void watch_device_faults(unsigned device, bool wanted) noexcept;

  PinnedArena& arena_;
  Userfaultfd host_;
  AddressSpace space_;
  Live live_;
  Counters& counters_;
  HostEvents events_;
  HostAgent agent_;
  CopyThreads copiers_;
  Migrator migrator_;
  Notifier notifier_;
  PinnedThread thread_;
  PlacementMaps maps_;

  UniqueFd epoll_;
  UniqueFd wakeup_;                                // an eventfd
  std::array<DeviceEvents, kMaxDevices> devices_;  // by index
  bool retry_ = false;
  Rest rest_ = Rest::kLong;
  bool expecting_ = false;             // there is more to bring ahead
  std::uint64_t served_fault_ns_ = 0;  // when the last fault was served
  std::uint64_t busy_until_ns_ = 0;
  SpareCpus spare_cpus_;
  bool expect_on_busy_machine_;
  std::int64_t idle_ns_ = 0;  // waited in vain since rest_ has changed
  bool told_failure_ = false;
  bool stop_ = false;
  std::uint32_t holds_ = 0;
  std::atomic<std::uint32_t> posted_{0};
  std::array<Slot, kSlots> slots_;
};

}  // namespace mirrorcl::mirror
