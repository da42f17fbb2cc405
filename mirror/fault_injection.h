// SPDX-License-Identifier: Apache-2.0
// System calls that fail, for tests: the mirror and the device's MMU driver, built with MIRRORCL_SYSTEM_CALL_HOOK, make
// their calls through here. Only calls of the mirror's own threads are touched (they are told by their stacks), and
// every fault is one that the kernel may answer at that place: an error before anything was done, a part done and then
// an error, or all done and EEXIST, as if somebody else had done it.
//
// Thread safety: every function from any thread.
#pragma once

#include <cstdint>

namespace mirrorcl::mirror {

enum class Injected : std::uint32_t {
  kMove,
  kCopy,
  kZero,
  kContinue,
  kWriteProtect,
  kRegister,
  kUnregister,
  kMap,       // mmap
  kRemap,     // mremap
  kAdvise,    // madvise
  kRead,      // pread
  kWrite,     // pwrite
  kAllocate,  // fallocate
  kWait,      // epoll, poll, futex wait
};
inline constexpr unsigned kInjectedKinds = static_cast<unsigned>(Injected::kWait) + 1;

struct InjectionCounts {
  std::uint64_t calls[kInjectedKinds];
  std::uint64_t faults[kInjectedKinds];
};

// From now on one call of `one_in` of each kind fails (0: none), in an order that `seed` determines.
void inject_randomly(std::uint32_t one_in, std::uint64_t seed) noexcept;
// The call number `skip` (from 0) of `kind` from now on answers -`error` without doing anything, and the `count` - 1
// after it.
void inject_once(Injected kind, int error, std::uint32_t skip = 0, std::uint32_t count = 1) noexcept;
void inject_nothing() noexcept;
// Hides features that the kernel's userfaultfd offers, from any thread.
void hide_userfaultfd_features(std::uint64_t features) noexcept;
// Called before the call number `skip` of any kind from now on, once; from the mirror's threads.
void before_call(std::uint64_t skip, void (*what)()) noexcept;
// The same, of calls of `kind` alone.
void before_call(Injected kind, std::uint64_t skip, void (*what)()) noexcept;

InjectionCounts injection_counts() noexcept;

}  // namespace mirrorcl::mirror
