// SPDX-License-Identifier: Apache-2.0
// Runs in the mirror's pinned threads: static storage only, no library calls.
#include "mirror/fault_injection.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <array>
#include <atomic>
#include <optional>
#include <span>

#include "base/raw_syscall.h"
#include "device/window.h"

namespace mirrorcl::mirror {
namespace {

struct Kind {
  std::atomic<std::uint64_t> calls{0};
  std::atomic<std::uint64_t> faults{0};
  // A scheduled fault: answered by calls [first, end).
  std::atomic<std::uint64_t> first{~std::uint64_t{0}};
  std::atomic<std::uint64_t> end{0};
  std::atomic<int> error{0};
  std::atomic<std::uint64_t> before{~std::uint64_t{0}};
};

std::array<Kind, kInjectedKinds> g_kinds;
std::atomic<std::uint32_t> g_one_in{0};
std::atomic<std::uint64_t> g_random{0};
std::atomic<std::uint64_t> g_hidden{0};
std::atomic<std::uint64_t> g_calls{0};
std::atomic<std::uint64_t> g_before{~std::uint64_t{0}};
std::atomic<void (*)()> g_what{nullptr};

std::uint64_t next_random() noexcept {  // SplitMix64
  std::uint64_t x = g_random.fetch_add(0x9e37'79b9'7f4a'7c15) + 0x9e37'79b9'7f4a'7c15;
  x = (x ^ x >> 30) * 0xbf58'476d'1ce4'e5b9;
  x = (x ^ x >> 27) * 0x94d0'49bb'1331'11eb;
  return x ^ x >> 31;
}

bool in_pinned_thread() noexcept {
  char here;
  return window::kPinned.contains(reinterpret_cast<std::uint64_t>(&here));
}

// The four requests that move pages have their length and, as the last field, their progress.
struct Transfer {
  std::uint64_t* length;
  std::int64_t* progress;
};
struct MoveArgument {  // struct uffdio_move, 6.8
  std::uint64_t destination;
  std::uint64_t source;
  std::uint64_t length;
  std::uint64_t mode;
  std::int64_t moved;
};
constexpr unsigned long kMoveRequest = _IOWR(UFFDIO, 0x05, MoveArgument);

template <typename T>
std::int64_t* as_signed(T* field) {
  return reinterpret_cast<std::int64_t*>(field);
}

Transfer transfer_of(unsigned long request, void* argument) noexcept {
  if (request == kMoveRequest) {
    auto* move = static_cast<MoveArgument*>(argument);
    return {&move->length, &move->moved};
  }
  if (request == UFFDIO_COPY) {
    auto* copy = static_cast<uffdio_copy*>(argument);
    return {reinterpret_cast<std::uint64_t*>(&copy->len), as_signed(&copy->copy)};
  }
  if (request == UFFDIO_ZEROPAGE) {
    auto* zero = static_cast<uffdio_zeropage*>(argument);
    return {reinterpret_cast<std::uint64_t*>(&zero->range.len), as_signed(&zero->zeropage)};
  }
  auto* install = static_cast<uffdio_continue*>(argument);
  return {reinterpret_cast<std::uint64_t*>(&install->range.len), as_signed(&install->mapped)};
}

std::optional<Injected> kind_of(long number, long b) noexcept {
  switch (number) {
    case SYS_ioctl:
      switch (static_cast<unsigned long>(b)) {
        case kMoveRequest:
          return Injected::kMove;
        case UFFDIO_COPY:
          return Injected::kCopy;
        case UFFDIO_ZEROPAGE:
          return Injected::kZero;
        case UFFDIO_CONTINUE:
          return Injected::kContinue;
        case UFFDIO_WRITEPROTECT:
          return Injected::kWriteProtect;
        case UFFDIO_REGISTER:
          return Injected::kRegister;
        case UFFDIO_UNREGISTER:
          return Injected::kUnregister;
        default:
          return std::nullopt;
      }
    case SYS_mmap:
      return Injected::kMap;
    case SYS_mremap:
      return Injected::kRemap;
    case SYS_madvise:
      return Injected::kAdvise;
    case SYS_pread64:
      return Injected::kRead;
    case SYS_pwrite64:
      return Injected::kWrite;
    case SYS_fallocate:
      return Injected::kAllocate;
    case SYS_epoll_pwait2:
    case SYS_ppoll:
      return Injected::kWait;
    case SYS_futex:
      // A wake never fails.
      return b == FUTEX_WAIT ? std::optional(Injected::kWait) : std::nullopt;
    default:
      return std::nullopt;
  }
}

// What the kernel may say, whatever the state of memory.
std::span<const int> errors_of(Injected kind) noexcept {
  static constexpr int kMoveErrors[] = {EAGAIN, EBUSY, ENOMEM};
  static constexpr int kFillErrors[] = {EAGAIN, ENOMEM};
  static constexpr int kNoMemory[] = {ENOMEM};
  static constexpr int kInterrupted[] = {EINTR};
  switch (kind) {
    case Injected::kMove:
      return kMoveErrors;
    case Injected::kCopy:
    case Injected::kZero:
    case Injected::kContinue:
    case Injected::kWriteProtect:
      return kFillErrors;
    case Injected::kRegister:
    case Injected::kUnregister:
    case Injected::kMap:
    case Injected::kRemap:
    case Injected::kAdvise:
      return kNoMemory;
    case Injected::kRead:
    case Injected::kWrite:
    case Injected::kAllocate:
    case Injected::kWait:
      return kInterrupted;
  }
  return kInterrupted;
}

// Somebody else may have put a page there first. Nobody does in the staging area.
bool may_exist(Injected kind, long c) noexcept {
  return kind != Injected::kMove || !window::kStaging.contains(reinterpret_cast<const MoveArgument*>(c)->destination);
}

constexpr bool moves_pages(Injected kind) noexcept {
  return kind == Injected::kMove || kind == Injected::kCopy || kind == Injected::kZero || kind == Injected::kContinue;
}

// One page only; then EAGAIN, or EEXIST as if it had been there before. The kernel reports progress with the former
// alone.
long transfer_a_part(long a, long b, long c, bool exists) noexcept {
  Transfer transfer = transfer_of(static_cast<unsigned long>(b), reinterpret_cast<void*>(c));
  const std::uint64_t whole = *transfer.length;
  *transfer.length = window::kPageSize;
  const long result = raw_syscall6(SYS_ioctl, a, b, c, 0, 0, 0);
  *transfer.length = whole;
  if (result != 0 || whole == window::kPageSize) {
    if (result == 0 && exists) {
      *transfer.progress = -EEXIST;
      return -EEXIST;
    }
    return result;
  }
  if (exists) {
    *transfer.progress = -EEXIST;
    return -EEXIST;
  }
  *transfer.progress = static_cast<std::int64_t>(window::kPageSize);
  return -EAGAIN;
}

long fail_call(Injected kind, int error, long b, long c) noexcept {
  if (moves_pages(kind)) {
    *transfer_of(static_cast<unsigned long>(b), reinterpret_cast<void*>(c)).progress = -error;
  }
  return -error;
}

}  // namespace

void inject_randomly(std::uint32_t one_in, std::uint64_t seed) noexcept {
  g_random.store(seed);
  g_one_in.store(one_in);
}

void inject_once(Injected which, int error, std::uint32_t skip, std::uint32_t count) noexcept {
  Kind& kind = g_kinds[static_cast<unsigned>(which)];
  kind.error.store(error);
  kind.first.store(~std::uint64_t{0});
  const std::uint64_t first = kind.calls.load() + skip;
  kind.end.store(first + count);
  kind.first.store(first);
}

void inject_nothing() noexcept {
  g_one_in.store(0);
  g_hidden.store(0);
  g_before.store(~std::uint64_t{0});
  for (Kind& kind : g_kinds) {
    kind.first.store(~std::uint64_t{0});
    kind.before.store(~std::uint64_t{0});
  }
}

void hide_userfaultfd_features(std::uint64_t features) noexcept {
  g_hidden.store(features);
}

void before_call(std::uint64_t skip, void (*what)()) noexcept {
  g_what.store(what);
  g_before.store(g_calls.load() + skip);
}

void before_call(Injected which, std::uint64_t skip, void (*what)()) noexcept {
  Kind& kind = g_kinds[static_cast<unsigned>(which)];
  g_what.store(what);
  kind.before.store(kind.calls.load() + skip);
}

InjectionCounts injection_counts() noexcept {
  InjectionCounts counts{};
  for (unsigned i = 0; i < kInjectedKinds; ++i) {
    counts.calls[i] = g_kinds[i].calls.load();
    counts.faults[i] = g_kinds[i].faults.load();
  }
  return counts;
}

}  // namespace mirrorcl::mirror

long mirrorcl::hooked_system_call(long number, long a, long b, long c, long d, long e, long f) noexcept {
  using namespace mirrorcl::mirror;
  if (number == SYS_ioctl && b == static_cast<long>(UFFDIO_API)) {
    const long result = raw_syscall6(number, a, b, c, d, e, f);
    reinterpret_cast<uffdio_api*>(c)->features &= ~g_hidden.load();
    return result;
  }
  const auto which = kind_of(number, b);
  if (!which || !in_pinned_thread()) return raw_syscall6(number, a, b, c, d, e, f);
  if (g_calls.fetch_add(1) == g_before.load()) g_what.load()();
  Kind& kind = g_kinds[static_cast<unsigned>(*which)];
  const std::uint64_t call = kind.calls.fetch_add(1);
  if (call == kind.before.load()) g_what.load()();
  if (call >= kind.first.load() && call < kind.end.load()) {
    kind.faults.fetch_add(1);
    return fail_call(*which, kind.error.load(), b, c);
  }
  const std::uint32_t one_in = g_one_in.load(std::memory_order_relaxed);
  if (one_in == 0) return raw_syscall6(number, a, b, c, d, e, f);
  const std::uint64_t random = next_random();
  if (random % one_in != 0) return raw_syscall6(number, a, b, c, d, e, f);
  kind.faults.fetch_add(1);
  const std::uint64_t choice = random >> 40;
  if (moves_pages(*which) && choice % 4 == 0) return transfer_a_part(a, b, c, false);
  if (moves_pages(*which) && choice % 4 == 1 && may_exist(*which, c)) return transfer_a_part(a, b, c, true);
  const bool transfers = *which == Injected::kRead || *which == Injected::kWrite;
  if (transfers && choice % 2 == 0 && c > 8) {
    return raw_syscall6(number, a, b, c / 2 & ~7L, d, e, f);  // a short result
  }
  const auto errors = errors_of(*which);
  return fail_call(*which, errors[choice / 4 % errors.size()], b, c);
}
