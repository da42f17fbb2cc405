// SPDX-License-Identifier: Apache-2.0
#include "mirror/mirror.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <new>
#include <utility>

#include "base/log.h"
#include "device/window.h"
#include "mirror/ordered_lock.h"
#include "mirror/service_thread.h"

namespace mirrorcl::mirror {
namespace {

Mutex g_start;
// The running mirror; null before it starts, after it ends, and in a forked child. In the driver's own segment, which
// never migrates.
std::atomic<ServiceThread*> g_service{nullptr};

void hold_everything() noexcept {
  if (ServiceThread* service = g_service.load()) service->request({Request::Kind::kHold, {0, 0}, nullptr});
}

void before_fork() {
  hold_everything();
}

void after_fork_in_parent() {
  if (ServiceThread* service = g_service.load()) service->request({Request::Kind::kRelease, {0, 0}, nullptr});
}

void after_fork_in_child() {
  // The child has all memory and none of the threads. Its copy of the mirror is dead.
  if (ServiceThread* service = g_service.exchange(nullptr)) service->close_in_child();
}

// A sanitizer's leak check stops every thread, the service thread too, and then reads all memory: nothing may be away
// by then.
void before_exit() {
  hold_everything();
}

bool has_leak_checker() {
  return dlsym(RTLD_DEFAULT, "__lsan_do_leak_check") != nullptr || dlsym(RTLD_DEFAULT, "__asan_init") != nullptr;
}

void install_process_hooks() {
  static bool installed = [] {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    if (has_leak_checker()) std::atexit(before_exit);
    return true;
  }();
  (void)installed;
}

class MirrorHandle final : public Mirror {
 public:
  explicit MirrorHandle(ServiceThread* service) : service_(service) {}

  ~MirrorHandle() override {
    OrderedLock lock(g_start, LockOrder::kStart);
    if (g_service.load() != service_) return;  // the child of a fork
    service_->request({Request::Kind::kStop, {0, 0}, nullptr});
    service_->join();
    g_service.store(nullptr);
    service_->~ServiceThread();
    for (const auto& region : {window::kPinned, window::kStaging, window::kViews}) unmap_window_region(region);
  }

  Result<void> attach(DeviceOperations& device) override {
    if (!alive()) return fail(ErrorCode::kDeviceLost, "the mirror does not live in a forked child");
    const int index = service_->request({Request::Kind::kAttach, {0, 0}, &device});
    if (index == -ENOSPC) {
      return fail(ErrorCode::kNotSupported, "the mirror serves no more devices than are attached already");
    }
    if (index < 0) return fail_errno("cannot attach the device to the mirror", -index);
    {
      OrderedLock lock(publish_, LockOrder::kPublish);
      if (std::exchange(published_[static_cast<unsigned>(index)], &device) == &device) return {};  // restarted
    }
    publish_device(device, fmt::format("device {}", index), hms::kNoUid, hms::kNoUid);
    return {};
  }
  int detach(DeviceOperations& device) noexcept override {
    if (!alive()) return -ENODEV;
    const int error = service_->request({Request::Kind::kDetach, {0, 0}, &device});
    if (error != 0) return error;
    OrderedLock lock(publish_, LockOrder::kPublish);
    const auto place = std::find(published_.begin(), published_.end(), &device);
    if (place == published_.end()) return 0;
    service_->live().withdraw_device(static_cast<std::uint32_t>(place - published_.begin()));
    *place = nullptr;
    return 0;
  }
  void drain_events() noexcept override {
    if (!alive()) return;
    service_->drain_events();
    if (!service_->layout_unchanged()) service_->request({Request::Kind::kLayout, {0, 0}, nullptr});
  }
  bool has_come(const DeviceOperations& device, std::uint64_t address) const noexcept override {
    return !alive() || service_->has_come(device, address);
  }
  void expect(const DeviceOperations& device, std::span<const NamedMemory> memory,
              const LaunchWait& until) noexcept override {
    if (alive()) service_->expect(device, memory, until);
  }
  LaunchWait open_wait() noexcept override { return alive() ? service_->expected().open_wait() : LaunchWait{}; }
  void close_wait(std::uint64_t value) noexcept override {
    if (alive()) service_->expected().close_wait(value);
  }
  void drop_snapshots() noexcept override {
    if (alive() && service_->has_snapshots()) service_->request({Request::Kind::kDropSnapshots, {0, 0}, nullptr});
  }
  void bring_home(Range range) noexcept override {
    Range pages{page_down(range.start), page_up(range.end()) - page_down(range.start)};
    if (alive()) service_->request({Request::Kind::kBringHome, pages, nullptr});
  }
  int bring_in(DeviceOperations& device, Range range, Untouched untouched) noexcept override {
    Range pages{page_down(range.start), page_up(range.end()) - page_down(range.start)};
    return alive() ? service_->request({Request::Kind::kBringIn, pages, &device, untouched}) : -ENODEV;
  }
  using Mirror::device_pages;
  void device_pages(DeviceOperations& device, std::uint64_t address, std::span<PageMask> blocks) noexcept override {
    for (std::uint64_t base = block_down(address); !blocks.empty();) {
      const auto some = blocks.first(std::min(blocks.size(), ServiceThread::kMostBlocks));
      const Range range{base, some.size() * kBlockSize};
      std::fill(some.begin(), some.end(), PageMask());
      if (alive()) service_->request({Request::Kind::kDevicePages, range, &device}, some);
      blocks = blocks.subspan(some.size());
      base = range.end();
    }
  }
  void never_migrate(Range range) noexcept override {
    Range pages{page_down(range.start), page_up(range.end()) - page_down(range.start)};
    if (alive()) service_->request({Request::Kind::kNeverMigrate, pages, nullptr});
  }
  void follow_policies(hms::PolicyTable* policies) noexcept override {
    if (alive()) service_->request({.kind = Request::Kind::kFollowPolicies, .policies = policies});
  }
  void watch_policies(Range range) noexcept override {
    Range pages{page_down(range.start), page_up(range.end()) - page_down(range.start)};
    if (alive()) service_->request({Request::Kind::kWatchPolicies, pages, nullptr});
  }
  void hold_home() noexcept override {
    if (alive()) service_->request({Request::Kind::kHold, {0, 0}, nullptr});
  }
  void release_hold() noexcept override {
    if (alive()) service_->request({Request::Kind::kRelease, {0, 0}, nullptr});
  }
  void publish_device(const DeviceOperations& device, std::string_view name, hms::Uid initiator,
                      hms::Uid target) noexcept override {
    if (!alive()) return;
    OrderedLock lock(publish_, LockOrder::kPublish);
    const auto place = std::find(published_.begin(), published_.end(), &device);
    if (place == published_.end()) return;
    service_->live().publish_device(static_cast<std::uint32_t>(place - published_.begin()), name, initiator, target,
                                    device.capabilities().memory_size);
  }
  void publish_topology(std::string_view json) noexcept override {
    if (!alive()) return;
    OrderedLock lock(publish_, LockOrder::kPublish);
    service_->live().publish_topology(json);
  }
  void note_allocation(const AllocationNote& note) noexcept override {
    if (!alive()) return;
    OrderedLock lock(publish_, LockOrder::kPublish);
    const auto place = std::find(published_.begin(), published_.end(), note.device);
    if (place == published_.end()) return;
    const auto index = static_cast<std::uint32_t>(place - published_.begin());
    const hms::Uid target = note.target != hms::kNoUid ? note.target : hms::live::device_memory(index);
    service_->live().note_allocation({note.range, hms::live::device_initiator(index), hms::live::kNowhere, target,
                                      note.access, hms::Action::kMove, note.reason, false, &note.policy});
  }
  Result<void> place_by(const hms::Topology& topology, std::span<const DeviceUids> devices) override {
    if (!alive()) return fail(ErrorCode::kDeviceLost, "the mirror does not live in a forked child");
    OrderedLock lock(publish_, LockOrder::kPublish);
    return service_->place_by(topology, devices);
  }
  Statistics statistics() const noexcept override { return alive() ? service_->statistics() : Statistics{}; }
  DeviceStatistics statistics(const DeviceOperations& device) const noexcept override {
    return alive() ? service_->statistics(device) : DeviceStatistics{};
  }

 private:
  bool alive() const noexcept { return g_service.load(std::memory_order_relaxed) == service_; }

  ServiceThread* service_;
  Mutex publish_;  // one at a time
  // By index; null: none.
  std::array<const DeviceOperations*, kMaxDevices> published_ MIRRORCL_GUARDED_BY(publish_){};
};

}  // namespace

constexpr std::string_view kWithoutMove = "no UFFDIO_MOVE before Linux 6.8";

Result<std::string_view> Mirror::probe() {
  auto host = Userfaultfd::open();
  if (!host) return tl::unexpected<Error>(host.error());
  return host->can_move() ? std::string_view{} : kWithoutMove;
}

Result<std::unique_ptr<Mirror>> Mirror::start(const MirrorOptions& options) {
  OrderedLock lock(g_start, LockOrder::kStart);
  if (g_service.load() != nullptr) return fail(ErrorCode::kInvalidArgument, "the mirror runs already");
  auto host = Userfaultfd::open(options.use_move);
  if (!host) return tl::unexpected<Error>(host.error());
  auto space = AddressSpace::open();
  if (!space) return tl::unexpected<Error>(space.error());
  space->exclude_own_objects();

  struct Part {
    window::Region region;
    int protection;
  };
  Part parts[] = {{window::kPinned, PROT_READ | PROT_WRITE},
                  {window::kStaging, PROT_READ | PROT_WRITE},
                  {window::kViews, PROT_NONE}};
  for (std::size_t i = 0; i < std::size(parts); ++i) {
    auto mapped = map_window_region(parts[i].region, parts[i].protection);
    if (mapped) continue;
    while (i-- > 0) unmap_window_region(parts[i].region);
    return tl::unexpected<Error>(mapped.error());
  }
  // The arena lies at the front of what it hands out.
  PinnedArena local;
  auto* arena = new (local.allocate(sizeof(PinnedArena), alignof(PinnedArena))) PinnedArena(local);
  void* memory = arena->allocate(sizeof(ServiceThread), alignof(ServiceThread));
  auto* service = new (memory) ServiceThread(*arena, std::move(*host), std::move(*space), options);
  auto started = service->start();
  if (!started) {
    service->~ServiceThread();
    for (const Part& part : parts) unmap_window_region(part.region);
    return tl::unexpected<Error>(started.error());
  }
  g_service.store(service);
  install_process_hooks();
  return std::make_unique<MirrorHandle>(service);
}

}  // namespace mirrorcl::mirror
