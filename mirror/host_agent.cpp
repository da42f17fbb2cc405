// SPDX-License-Identifier: Apache-2.0
#include "mirror/host_agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <span>
#include <string_view>

#include "base/log.h"
#include "base/raw_syscall.h"
#include "mirror/clock.h"
#include "mirror/insist.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {
namespace {

constexpr int kPopulateWrite = 23;   // MADV_POPULATE_WRITE, 5.14
constexpr int kDontneedLocked = 24;  // MADV_DONTNEED_LOCKED, 5.18
// For how long events are left unread while the agent's call neither ends nor waits for one, which means that it waits
// for its turn.
constexpr std::uint64_t kHoldNs = 100'000'000;

// The name of the function of the kernel that the thread sleeps in; "0": in none, or the kernel does not tell.
std::string_view read_wait_channel(int fd, std::span<char> buffer) noexcept {
  const long size = raw_syscall(SYS_pread64, fd, buffer.data(), buffer.size(), 0);
  return size <= 0 ? "0" : std::string_view(buffer.data(), static_cast<std::size_t>(size));
}

bool is_same(const MappingInfo& a, const MappingInfo& b, std::uint64_t address) noexcept {
  const auto offset = [address](const MappingInfo& m) {
    return m.anonymous ? 0 : m.file_offset + address - m.range.start;
  };
  return a.protection == b.protection && a.shared == b.shared && a.file == b.file && offset(a) == offset(b);
}

}  // namespace

Result<void> HostAgent::start(PinnedArena& arena) {
  done_.reset(eventfd(0, EFD_CLOEXEC));
  if (!done_) return fail_errno("cannot create an eventfd", errno);
  waits_ = Waits::kUntried;
  ready_.store(false, std::memory_order_relaxed);
  auto started = thread_.start(
      arena, "mirror-agent", [](void* self) { static_cast<HostAgent*>(self)->run(); }, this);
  while (started && !ready_.load(std::memory_order_acquire)) raw_syscall(SYS_sched_yield);
  return started;
}

void HostAgent::stop() noexcept {
  state_.store(kStop, std::memory_order_release);
  futex_wake(&state_, 1);
  thread_.join();
}

// Whether waits_for_reader() can be relied on: the agent, which has nothing to do, sleeps. Its first call has come.
bool HostAgent::can_tell_waits() noexcept {
  if (waits_ != Waits::kUntried) return waits_ == Waits::kTold;
  char name[64];
  constexpr int kLooks = 100;
  waits_ = Waits::kUnknown;
  for (int i = 0; i < kLooks && waits_ != Waits::kTold && wait_channel_; ++i) {
    if (read_wait_channel(wait_channel_.get(), name) != "0") waits_ = Waits::kTold;
    if (waits_ != Waits::kTold) pause_briefly();
  }
  return waits_ == Waits::kTold;
}

// Whether the agent's call has raised an event and goes on when it has been read.
bool HostAgent::waits_for_reader() const noexcept {
  char name[64];
  return read_wait_channel(wait_channel_.get(), name).find("userfaultfd") != std::string_view::npos;
}

// There are events. False: the agent is done and has not raised them. True once it waits for one to be read.
bool HostAgent::comes_to_wait() const noexcept {
  constexpr unsigned kSpins = 50;
  const std::uint64_t start = now_ns();
  for (unsigned looks = 0; state_.load(std::memory_order_acquire) == kPosted; ++looks) {
    if (waits_for_reader() || now_ns() - start > kHoldNs) return true;
    if (looks < kSpins) raw_syscall(SYS_sched_yield);
    if (looks >= kSpins) pause_briefly();
  }
  return false;
}

void HostAgent::run() noexcept {
  const long wait_channel = raw_syscall(SYS_openat, AT_FDCWD, "/proc/thread-self/wchan", O_RDONLY | O_CLOEXEC);
  if (wait_channel >= 0) wait_channel_.reset(static_cast<int>(wait_channel));
  ready_.store(true, std::memory_order_release);
  for (;;) {
    std::uint32_t state = state_.load(std::memory_order_acquire);
    if (state == kStop) return;
    if (state == kIdle) {
      futex_wait(&state_, kIdle);
      continue;
    }
    const auto& a = wanted_.arguments;
    result_ = look(wanted_);
    made_call_ = result_ == 0;
    if (made_call_) result_ = raw_syscall(wanted_.number, a[0], a[1], a[2], a[3], a[4], a[5]);
    std::uint32_t posted = kPosted;
    state_.compare_exchange_strong(posted, kIdle, std::memory_order_release);
    std::uint64_t one = 1;
    raw_syscall(SYS_write, done_.get(), &one, sizeof one);
  }
}

int HostAgent::look(const SystemCall& wanted) noexcept {
  const Unchanged& unchanged = wanted.unchanged;
  if (const int error = confirm(wanted); error != 0 || unchanged.space == nullptr) return error;
  // Last, and immediately before the call: mprotect raises no event.
  const auto mapping = unchanged.space->query_from(wanted.target.start);
  const bool same = mapping && mapping->range.start <= wanted.target.start &&
                    mapping->range.end() >= wanted.target.end() &&
                    is_same(*mapping, unchanged.mapping, wanted.target.start);
  return same ? 0 : -EAGAIN;
}

// The kernel refuses operations on pages, under its own locks, while an event is on its way and where memory is not
// registered for them.
int HostAgent::confirm(const SystemCall& wanted) noexcept {
  switch (wanted.expected) {
    case Expect::kAnything:
      return 0;
    case Expect::kPrivate:
      return wanted.host->confirm_anonymous(wanted.target);
    case Expect::kShared:
      return wanted.host->confirm_shared(wanted.target);
    case Expect::kGrown:
      return wanted.host->confirm_registered(wanted.target);
  }
  return -EINVAL;
}

long HostAgent::call(const SystemCall& wanted, HostEvents& events, const Userfaultfd* host, Range zero_missing) {
  int host_fd = events.fd();
  // What was looked at is to stay as it is until the call has been made.
  bool hold = wanted.expected != Expect::kAnything && can_tell_waits();
  const bool acts_after_event = wanted.number == SYS_madvise;
  wanted_ = wanted;
  state_.store(kPosted, std::memory_order_release);
  futex_wake(&state_, 1);
  for (;;) {
    pollfd waits[2] = {{done_.get(), POLLIN, 0}, {host_fd, POLLIN, 0}};
    timespec timeout{0, 1'000'000};
    // The timeout matters only where a zero page was refused and must be tried again.
    raw_syscall(SYS_ppoll, waits, 2, host != nullptr ? &timeout : nullptr, nullptr, 0);
    const bool done = (waits[0].revents & POLLIN) != 0;
    if ((waits[1].revents & POLLIN) != 0 && hold && !done && comes_to_wait()) {
      hold = acts_after_event;
      if (hold) events.read_next();
    }
    if ((waits[1].revents & POLLIN) != 0 && !hold) events.read_pending();
    if (done) {
      std::uint64_t count;
      raw_syscall(SYS_read, done_.get(), &count, sizeof count);
      // The agent's results come with its state; the eventfd, which the language's memory model does not know, only
      // says that they are there.
      (void)state_.load(std::memory_order_acquire);
      return result_;
    }
    if (host == nullptr) continue;
    for (const HostFault& fault : events.faults()) {
      if (fault.address < zero_missing.start || fault.address >= zero_missing.end()) continue;
      const Range page{fault.address, kPageSize};
      if (fault.write_protected) {
        host->write_protect(page, false);  // left over from a copy under protection
      } else if (host->zero(page).error == -EEXIST && host->install(page).error != 0) {
        host->wake(page);  // else a shared page that was only not mapped
      }
    }
  }
}

int HostAgent::move_mapping(Range from, std::uint64_t to, Expect expected, const Unchanged& unchanged,
                            HostEvents& events, const Userfaultfd& host) noexcept {
  auto size = static_cast<long>(from.size);
  long result = call({SYS_mremap,
                      {static_cast<long>(from.start), size, size, MREMAP_MAYMOVE | MREMAP_FIXED, static_cast<long>(to)},
                      expected,
                      &host,
                      {to, from.size},
                      unchanged},
                     events);
  return result < 0 && result > -4096 ? static_cast<int>(result) : 0;
}

int HostAgent::take_away(Range from, std::uint64_t to, HostEvents& events, const Userfaultfd& host) noexcept {
  const auto size = static_cast<long>(from.size);
  constexpr long kFlags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
  const long result = call({SYS_mremap,
                            {static_cast<long>(from.start), size, size, kFlags, static_cast<long>(to)},
                            Expect::kPrivate,
                            &host,
                            from},
                           events);
  return result < 0 && result > -4096 ? static_cast<int>(result) : 0;
}

int HostAgent::discard(Range range, HostEvents& events, const Userfaultfd& host) noexcept {
  // In one call, whether locked or not: a second one would raise a second event, which is taken for the application's.
  // MADV_DONTNEED fails with EINVAL after its event if the application locks the memory meanwhile.
  return static_cast<int>(call({SYS_madvise,
                                {static_cast<long>(range.start), static_cast<long>(range.size), kDontneedLocked},
                                Expect::kPrivate,
                                &host,
                                range},
                               events));
}

int HostAgent::make_exclusive(Range range, HostEvents& events, const Userfaultfd& host) noexcept {
  return static_cast<int>(
      call({SYS_madvise, {static_cast<long>(range.start), static_cast<long>(range.size), kPopulateWrite, 0, 0}}, events,
           &host, range));
}

int HostAgent::set_futex(std::uint64_t address, FutexValue value, HostEvents& events,
                         const Userfaultfd& host) noexcept {
  // The operation on the second futex, which is the same: set it to 0, or to one bit.
  constexpr std::uint32_t kSetZero = FUTEX_OP(FUTEX_OP_SET, 0, FUTEX_OP_CMP_EQ, 0);
  constexpr auto kSetBit =
      static_cast<std::uint32_t>(FUTEX_OP(FUTEX_OP_SET | FUTEX_OP_OPARG_SHIFT, 30, FUTEX_OP_CMP_EQ, 0));
  static_assert(FUTEX_OWNER_DIED == 1U << 30);
  constexpr long kAll = 1 << 30;
  const auto futex = static_cast<long>(address);
  const long operation = value == FutexValue::kZero ? kSetZero : kSetBit;
  const long woken = call({SYS_futex, {futex, FUTEX_WAKE_OP, kAll, kAll, futex, operation}}, events, &host,
                          {page_down(address), kPageSize});
  return woken < 0 ? static_cast<int>(woken) : 0;
}

int HostAgent::wake_futex(std::uint64_t address, HostEvents& events, const Userfaultfd& host) noexcept {
  const long woken =
      call({SYS_futex, {static_cast<long>(address), FUTEX_WAKE, 1}}, events, &host, {page_down(address), kPageSize});
  return woken < 0 ? static_cast<int>(woken) : 0;
}

long HostAgent::splice(Range range, int write_end, HostEvents& events) noexcept {
  const iovec source{reinterpret_cast<void*>(range.start), range.size};
  return call({SYS_vmsplice, {write_end, reinterpret_cast<long>(&source), 1, SPLICE_F_NONBLOCK, 0}}, events);
}

}  // namespace mirrorcl::mirror
