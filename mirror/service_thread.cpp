// SPDX-License-Identifier: Apache-2.0
#include "mirror/service_thread.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>

#include "base/log.h"
#include "base/raw_syscall.h"
#include "device/window.h"
#include "mirror/ordered_lock.h"

namespace mirrorcl::mirror {
namespace {

constexpr Range kUserSpace{window::kUserSpaceStart, window::kUserSpaceEnd - window::kUserSpaceStart};

}  // namespace

ServiceThread::ServiceThread(PinnedArena& arena, Userfaultfd host, AddressSpace space, const MirrorOptions& options)
    : arena_(arena),
      host_(std::move(host)),
      space_(std::move(space)),
      live_(arena),
      counters_(live_.counters()),
      events_(host_, &arena),
      migrator_(host_, space_, events_, agent_, copiers_, live_, options, &arena),
      notifier_(events_, migrator_),
      maps_(arena),
      devices_{DeviceEvents(&arena), DeviceEvents(&arena), DeviceEvents(&arena), DeviceEvents(&arena)},
      expect_on_busy_machine_(options.expect_on_busy_machine) {
  static_assert(kMaxDevices == 4);
}

Result<void> ServiceThread::start() {
  // The formatter's library binds its calls when they are first made, which must not happen in a pinned thread: make
  // them now.
  char line[64];
  fmt::format_to_n(line, sizeof line, "{} {:#x} {}", "text", std::uint64_t{1}, -1);
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  wakeup_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_ || !wakeup_) return fail_errno("cannot create the service thread's event queue", errno);
  for (auto [fd, source] : {std::pair{host_.fd(), Source::kHost}, std::pair{wakeup_.get(), Source::kRequests}}) {
    if (int error = watch(fd, source); error != 0) return fail_errno("cannot watch the mirror's descriptors", -error);
  }
  if (auto opened = migrator_.open(); !opened) return opened;
  spare_cpus_.open();
  if (auto started = agent_.start(arena_); !started) return started;
  copiers_.start(arena_);
  auto started = thread_.start(
      arena_, "mirror-service", [](void* self) { static_cast<ServiceThread*>(self)->run(); }, this);
  if (!started) {
    copiers_.stop();
    agent_.stop();
  }
  return started;
}

void ServiceThread::join() noexcept {
  thread_.join();
  copiers_.stop();
  agent_.stop();
}

void ServiceThread::close_in_child() noexcept {
  epoll_.reset();
  wakeup_.reset();
  host_ = Userfaultfd();
  space_.close();
  live_.close_in_child();
  agent_.close_in_child();
  migrator_.close_in_child();
  spare_cpus_.close();
}

int ServiceThread::watch(int fd, Source source, unsigned device) noexcept {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = std::uint64_t{device} << 32 | static_cast<std::uint32_t>(source);
  return static_cast<int>(raw_syscall(SYS_epoll_ctl, epoll_.get(), EPOLL_CTL_ADD, fd, &event));
}

int ServiceThread::request(const Request& request, std::span<PageMask> pages) noexcept {
  const OrderedScope order(LockOrder::kRequest);
  // On the caller's own stack or in the window: nothing here is touched by the service thread but the slot.
  for (;;) {
    for (Slot& slot : slots_) {
      std::uint32_t expected = Slot::kFree;
      if (!slot.state.compare_exchange_strong(expected, Slot::kClaimed, std::memory_order_acquire)) continue;
      slot.request = request;
      slot.state.store(Slot::kPosted, std::memory_order_release);
      posted_.fetch_add(1, std::memory_order_release);
      std::uint64_t one = 1;
      raw_syscall(SYS_write, wakeup_.get(), &one, sizeof one);
      for (std::uint32_t state; (state = slot.state.load(std::memory_order_acquire)) != Slot::kDone;) {
        futex_wait(&slot.state, state);
      }
      int result = slot.result;
      std::copy_n(slot.pages.begin(), pages.size(), pages.begin());
      slot.state.store(Slot::kFree, std::memory_order_release);
      return result;
    }
    raw_syscall(SYS_sched_yield);
  }
}

Result<void> ServiceThread::place_by(const hms::Topology& topology, std::span<const Mirror::DeviceUids> devices) {
  PlacementSource source;
  std::array<hms::PlacementRequester, kMaxDevices> requesters;
  std::size_t count = 0;
  for (const Mirror::DeviceUids& one : devices) {
    // Attached devices stay where they are.
    AttachedDevice* device = migrator_.find(one.device);
    if (device == nullptr) return fail(ErrorCode::kInvalidArgument, "a device that is not attached to the mirror");
    source.devices[device->index] = {one.initiator, one.target};
    requesters[count++] = {one.initiator, !one.device->capabilities().memory_cpu_mappable};
  }
  auto map = maps_.add(topology, std::span(requesters).first(count));
  if (!map) return tl::unexpected<Error>(map.error());
  source.map = *map;
  request({.kind = Request::Kind::kPlaceBy, .range = {0, 0}, .device = nullptr, .placement = source});
  maps_.retire_others();
  return {};
}

DeviceStatistics ServiceThread::statistics(const DeviceOperations& device) noexcept {
  // Attached devices stay where they are.
  const AttachedDevice* attached = migrator_.find(&device);
  return attached == nullptr ? DeviceStatistics{} : live_.counters().read(attached->index);
}

void ServiceThread::run() noexcept {
  while (!stop_) {
    wait();
    live_.begin(now_ns());
    notifier_.apply_pending();
    retry_ = events_.is_held();
    serve_requests();
    serve_host_faults();
    if (holds_ == 0) serve_device_faults();
    serve_expected();
    look_after_threads();
  }
}

bool ServiceThread::has_come(const DeviceOperations& device, std::uint64_t address) noexcept {
  // Attached devices stay where they are.
  const AttachedDevice* attached = migrator_.find(&device);
  return attached == nullptr || migrator_.expected().has_come(address, attached->index);
}

void ServiceThread::expect(const DeviceOperations& device, std::span<const NamedMemory> memory,
                           const LaunchWait& until) noexcept {
  const AttachedDevice* attached = migrator_.find(&device);
  if (attached == nullptr || (!expected().rung() && !expected().may_wake(now_ns()))) return;
  bool first = false;
  for (const NamedMemory& named : memory) first = expected().put({named, attached->index, until}) || first;
  if (!first) return;
  std::uint64_t one = 1;
  raw_syscall(SYS_write, wakeup_.get(), &one, sizeof one);
}

// One part at a time, and no part while there are faults: the kernel that runs goes before the one that waits.
void ServiceThread::serve_expected() noexcept {
  if (migrator_.answers_end_ns() <= now_ns()) migrator_.end_answers();
  if (!expecting_ && !expected().rung()) return;
  expecting_ = true;
  const bool waiting = events_.has_events() || !events_.faults().empty() || has_device_faults();
  const std::uint64_t now = now_ns();
  if (holds_ != 0 || waiting || now < expect_from_ns()) return;
  if (!expect_on_busy_machine_ && migrator_.is_answering_wish() && !spare_cpus_.any()) {
    busy_until_ns_ = now + kBusyNs;
    return;
  }
  expecting_ = migrator_.bring_expected();
}

void ServiceThread::look_after_threads() noexcept {
  const std::uint64_t next = migrator_.thread_ends().next_look_ns();
  if (next != kNever && !events_.has_events() && now_ns() >= next) migrator_.thread_ends().look();
}

// How long to wait for something to do; negative: for ever.
std::int64_t ServiceThread::patience_ns(bool busy) const noexcept {
  if (retry_) return kRetryNs;
  if (busy) return 0;
  if (expecting_ && holds_ == 0) {
    return static_cast<std::int64_t>(expect_from_ns() - std::min(expect_from_ns(), now_ns()));
  }
  std::int64_t patience = rest_ == Rest::kNone ? kShortRestNs : rest_ == Rest::kShort ? kLongRestNs : -1;
  if (const std::uint64_t next = migrator_.next_collapse_ns(); next != kNever) {
    const std::uint64_t now = now_ns();
    const std::int64_t until = std::max(kCollapseNs, static_cast<std::int64_t>(std::max(next, now) - now));
    patience = patience < 0 ? until : std::min(patience, until);
  }
  const std::uint64_t next_look = std::min(migrator_.thread_ends().next_look_ns(), migrator_.answers_end_ns());
  if (next_look == kNever) return patience;
  const std::int64_t until = std::max<std::int64_t>(static_cast<std::int64_t>(next_look - now_ns()), 0);
  return patience < 0 ? until : std::min(patience, until);
}

void ServiceThread::wait() noexcept {
  // What was read while the agent worked does not show up in epoll again.
  bool busy = events_.has_events() || !events_.faults().empty() || (holds_ == 0 && has_device_faults());
  const std::int64_t timeout_ns = patience_ns(busy);
  events_.settle();
  timespec timeout{timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
  constexpr int kMaxReady = 2 + 2 * kMaxDevices;
  epoll_event ready[kMaxReady];
  long count =
      raw_syscall(SYS_epoll_pwait2, epoll_.get(), ready, kMaxReady, timeout_ns < 0 ? nullptr : &timeout, nullptr, 0);
  const bool idle = count == 0 && !busy && !retry_;
  idle_ns_ = idle ? idle_ns_ + timeout_ns : 0;
  if (idle) return rest();
  if (count > 0) rest_ = Rest::kNone;
  for (long i = 0; i < count; ++i) {
    const auto device = static_cast<unsigned>(ready[i].data.u64 >> 32);
    switch (static_cast<Source>(ready[i].data.u64 & 0xffff'ffff)) {
      case Source::kHost:
        break;  // read in any case, before anything else is done
      case Source::kRequests: {
        std::uint64_t posted;
        raw_syscall(SYS_read, wakeup_.get(), &posted, sizeof posted);
        break;
      }
      case Source::kDeviceFaults:
        devices_[device].ready = true;
        break;
      case Source::kDeviceLost:
        device_lost(device);
        break;
    }
  }
}

void ServiceThread::rest() noexcept {
  if (idle_ns_ >= kCollapseNs && migrator_.next_collapse_ns() <= now_ns()) migrator_.collapse_next();
  if (rest_ == Rest::kNone && idle_ns_ >= kShortRestNs) {
    migrator_.rest();
    rest_ = Rest::kShort;
    idle_ns_ = 0;
  } else if (rest_ == Rest::kShort && idle_ns_ >= kLongRestNs) {
    migrator_.free_kept();
    rest_ = Rest::kLong;
  }
}

void ServiceThread::serve_host_faults() noexcept {
  auto& faults = events_.faults();
  if (!faults.empty()) live_.begin(served_fault_ns_ = now_ns());
  // Serving may append to the list, when the agent is waited for.
  std::size_t kept = 0;
  for (std::size_t i = 0; i < faults.size(); ++i) {
    HostFault fault = faults[i];
    counters_.add(&Statistics::cpu_faults);
    migrator_.host_touches(fault.address);
    Outcome outcome = migrator_.serve_host(fault);
    live_.note_try(Live::Fault::kCpu, outcome == Outcome::kDone, now_ns());
    if (outcome == Outcome::kAgain) {
      retry_ = true;
      faults[kept++] = fault;
    } else if (outcome == Outcome::kFailed) {
      // Device memory cannot be read. Zeros would be a lie, so the thread waits; said once.
      if (!told_failure_) log_error("an access of the application to {:#x} cannot be served and waits", fault.address);
      told_failure_ = true;
      retry_ = true;
      faults[kept++] = fault;
    }
    if (events_.has_events()) {
      // Never serve a fault with an older event unapplied: keep the rest for the next round.
      for (std::size_t rest = i + 1; rest < faults.size(); ++rest) faults[kept++] = faults[rest];
      break;
    }
  }
  faults.resize(kept);
}

bool ServiceThread::has_device_faults() const noexcept {
  return std::any_of(devices_.begin(), devices_.end(),
                     [](const DeviceEvents& device) { return !device.faults.empty(); });
}

void ServiceThread::serve_device_faults() noexcept {
  for (unsigned device = 0; device < kMaxDevices; ++device) {
    if (devices_[device].ready || !devices_[device].faults.empty()) {
      serve_device_faults(migrator_.device(device), devices_[device]);
    }
  }
}

void ServiceThread::serve_device_faults(AttachedDevice& device, DeviceEvents& events) noexcept {
  if (events.ready) {
    events.ready = false;
    DeviceFault fresh[64];
    int count = device->next_faults(fresh);
    for (int i = 0; i < count; ++i) events.faults.push_back(fresh[i]);
    // Streams grow upwards: of units that have come to two blocks in a row, the lower one is served first.
    std::sort(events.faults.begin(), events.faults.end(),
              [](const DeviceFault& a, const DeviceFault& b) { return a.address < b.address; });
    if (count > 0) {
      counters_.add(&Statistics::device_faults, static_cast<std::uint64_t>(count));
      counters_.add(device.index, &DeviceStatistics::faults, static_cast<std::uint64_t>(count));
    }
  }
  if (!events.faults.empty()) live_.begin(served_fault_ns_ = now_ns());
  std::size_t kept = 0;
  for (std::size_t i = 0; i < events.faults.size(); ++i) {
    DeviceFault fault = events.faults[i];
    Verdict verdict = events_.has_events() ? Verdict{Outcome::kAgain} : migrator_.serve_device(device, fault);
    live_.note_try(Live::Fault::kDevice, verdict.outcome == Outcome::kDone, now_ns());
    switch (verdict.outcome) {
      case Outcome::kDone:
        break;
      case Outcome::kAgain:
        events.faults[kept++] = fault;
        retry_ = retry_ || !events_.has_events();
        break;
      case Outcome::kFailed:
        counters_.add(&Statistics::device_faults_failed);
        counters_.add(device.index, &DeviceStatistics::faults_failed);
        log_debug("device access to {:#x} fails: kind {}", fault.address, static_cast<int>(verdict.kind));
        device->fail(fault, verdict.kind);
        break;
    }
  }
  events.faults.resize(kept);
}

void ServiceThread::serve_requests() noexcept {
  if (posted_.load(std::memory_order_acquire) == 0) return;
  for (Slot& slot : slots_) {
    std::uint32_t state = slot.state.load(std::memory_order_acquire);
    if (state != Slot::kPosted && state != Slot::kServing) continue;
    if (!serve_request(slot)) {
      retry_ = true;
      continue;
    }
    posted_.fetch_sub(1, std::memory_order_relaxed);
    slot.state.store(Slot::kDone, std::memory_order_release);
    futex_wake(&slot.state, 1);
  }
}

bool ServiceThread::continue_bringing_home(Range range, Migrator::Tracking tracking) noexcept {
  expected().forget();
  Outcome outcome = migrator_.bring_home(range, kAllDevices, tracking);
  if (outcome == Outcome::kFailed) log_error("some pages could not be brought home from the device");
  return outcome != Outcome::kAgain;
}

bool ServiceThread::serve_request(Slot& slot) noexcept {
  bool first = slot.state.load(std::memory_order_relaxed) == Slot::kPosted;
  slot.state.store(Slot::kServing, std::memory_order_relaxed);
  slot.result = 0;
  migrator_.begin_request();
  AttachedDevice* device = slot.request.device == nullptr ? nullptr : migrator_.find(slot.request.device);
  switch (slot.request.kind) {
    case Request::Kind::kAttach:
      slot.result = attach(slot.request.device);
      return true;
    case Request::Kind::kDetach:
      slot.result = device == nullptr ? -ENODEV : 0;
      return slot.result != 0 || detach(*device, &slot.result);
    case Request::Kind::kDropSnapshots:
      if (migrator_.has_devices()) migrator_.drop_snapshots();
      return true;
    case Request::Kind::kLayout:
      migrator_.policies().apply_files();
      return !migrator_.has_devices() || migrator_.apply_layout() != Outcome::kAgain;
    case Request::Kind::kBringHome:
      return !migrator_.has_devices() || continue_bringing_home(slot.request.range, Migrator::Tracking::kEndAtRest);
    case Request::Kind::kBringIn:
      slot.result = device == nullptr ? -ENODEV : holds_ > 0 ? -EBUSY : 0;
      return slot.result != 0 ||
             migrator_.bring_in(*device, slot.request.range, slot.request.untouched) != Outcome::kAgain;
    case Request::Kind::kDevicePages:
      for (std::size_t i = 0; i < slot.request.range.size / kBlockSize; ++i) {
        const std::uint64_t block = slot.request.range.start + i * kBlockSize;
        slot.pages[i] = device == nullptr ? PageMask() : migrator_.device_pages(*device, block);
      }
      return true;
    case Request::Kind::kPlaceBy:
      expected().forget();
      migrator_.placement().place_by(slot.request.placement);
      return true;
    case Request::Kind::kNeverMigrate:
      if (first) space_.exclude(slot.request.range);
      return continue_bringing_home(slot.request.range);
    case Request::Kind::kFollowPolicies:
      expected().forget();
      migrator_.policies().follow(slot.request.policies);
      migrator_.placement().follow(slot.request.policies);
      migrator_.policies().watch(kUserSpace);
      return true;
    case Request::Kind::kWatchPolicies:
      expected().forget();
      migrator_.policies().watch(slot.request.range);
      return true;
    case Request::Kind::kHold:
      if (first && holds_++ == 0) watch_device_faults(false);
      return !migrator_.has_devices() || continue_bringing_home(kUserSpace);
    case Request::Kind::kRelease:
      if (holds_ > 0 && --holds_ == 0) {
        watch_device_faults(true);
      }
      return true;
    case Request::Kind::kStop:
      if (first && holds_++ == 0) watch_device_faults(false);
      stop_ = !migrator_.has_devices() || continue_bringing_home(kUserSpace);
      if (stop_ && migrator_.has_devices()) migrator_.end_sharing_all();
      return stop_;
  }
  return true;
}

int ServiceThread::attach(DeviceOperations* operations) noexcept {
  const AttachedDevice* device = migrator_.attach(operations);
  if (device == nullptr) return -ENOSPC;
  DeviceEvents& events = devices_[device->index];
  stop_watching(device->index);
  events.faults.reserve(256);
  events.fault_fd = operations->fault_fd();
  events.lost_fd = operations->lost_fd();
  if (events.lost_fd >= 0) {
    if (int error = watch(events.lost_fd, Source::kDeviceLost, device->index); error != 0) return error;
  }
  if (holds_ == 0) watch_device_faults(device->index, true);
  return static_cast<int>(device->index);
}

bool ServiceThread::detach(AttachedDevice& device, int* result) noexcept {
  expected().forget();
  const Outcome outcome = migrator_.detach(device);
  if (outcome == Outcome::kAgain) return false;
  *result = outcome == Outcome::kFailed ? -EIO : 0;
  if (*result == 0) stop_watching(device.index);
  return true;
}

void ServiceThread::watch_device_faults(bool wanted) noexcept {
  for (unsigned device = 0; device < kMaxDevices; ++device) watch_device_faults(device, wanted);
}

void ServiceThread::watch_device_faults(unsigned device, bool wanted) noexcept {
  DeviceEvents& events = devices_[device];
  if (wanted == events.watching_faults || events.fault_fd < 0) return;
  events.watching_faults = wanted;
  if (wanted) {
    events.ready = true;
    int error = watch(events.fault_fd, Source::kDeviceFaults, device);
    if (error != 0) log_error("a device's faults cannot be watched: error {}", -error);
  } else {
    raw_syscall(SYS_epoll_ctl, epoll_.get(), EPOLL_CTL_DEL, events.fault_fd, nullptr);
  }
}

// The device has no descriptors and no faults any more, or others.
void ServiceThread::stop_watching(unsigned device) noexcept {
  DeviceEvents& events = devices_[device];
  watch_device_faults(device, false);
  if (events.lost_fd >= 0) raw_syscall(SYS_epoll_ctl, epoll_.get(), EPOLL_CTL_DEL, events.lost_fd, nullptr);
  events.fault_fd = -1;
  events.lost_fd = -1;
  events.ready = false;
  events.faults.clear();
}

void ServiceThread::device_lost(unsigned device) noexcept {
  stop_watching(device);
  counters_.add(&Statistics::device_losses);
  counters_.add(device, &DeviceStatistics::losses);
  // What the device held stays where it is: faults on it are served from its memory as before.
  migrator_.device(device)->on_lost();
}

}  // namespace mirrorcl::mirror
