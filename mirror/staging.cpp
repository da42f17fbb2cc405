// SPDX-License-Identifier: Apache-2.0
#include "mirror/staging.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "base/log.h"
#include "base/raw_syscall.h"
#include "mirror/insist.h"

namespace mirrorcl::mirror {

namespace {

constexpr int kPopulateWrite = 23;   // MADV_POPULATE_WRITE, 5.14
constexpr int kDontneedLocked = 24;  // MADV_DONTNEED_LOCKED, 5.18

}  // namespace

Staging::Staging(const Userfaultfd& host, CopyThreads& copiers) noexcept
    : host_(host),
      copiers_(copiers),
      plain_{kPlain, MADV_DONTNEED, kPlain.start},
      locked_{kLocked, kDontneedLocked, kLocked.start} {}

Result<void> Staging::open() {
  int error = host_.register_range(kPlain, kTrackMissing);
  if (error != 0) return fail_errno("cannot register the staging area with userfaultfd", -error);
  return {};
}

std::uint64_t Staging::take_locked(std::uint64_t size) noexcept {
  if (lock_ == Lock::kUntried) {
    // No page yet: those that come are locked.
    long error = raw_syscall(SYS_mlock2, kLocked.start, kLocked.size, MLOCK_ONFAULT);
    if (error == 0) error = host_.register_range(kLocked, kTrackMissing);
    lock_ = error == 0 ? Lock::kHeld : Lock::kRefused;
  }
  return lock_ == Lock::kHeld ? take(locked_, size) : 0;
}

std::uint64_t Staging::take_huge(const AddressSpace& space) noexcept {
  if (!space.is_huge(kHuge)) {
    raw_syscall(SYS_madvise, kHuge.start, kHuge.size, MADV_DONTNEED);  // the small pages of a former attempt
    if (raw_syscall(SYS_madvise, kHuge.start, kHuge.size, MADV_HUGEPAGE) != 0) return 0;
    if (raw_syscall(SYS_madvise, kHuge.start, kHuge.size, kPopulateWrite) != 0 || !space.is_huge(kHuge)) return 0;
  }
  return kHuge.start;
}

std::uint64_t Staging::take(Area& area, std::uint64_t size) noexcept {
  // Whole blocks are aligned like their source, so that huge pages move whole.
  if (size == kBlockSize) area.next = block_down(area.next + kBlockSize - 1);
  if (area.next + size > area.range.end()) empty(area);
  std::uint64_t start = area.next;
  area.next += size;
  return start;
}

int Staging::discard(Range range, int advice) noexcept {
  std::atomic<int> error{0};
  auto body = [&](unsigned part) {
    const std::uint64_t start = range.start + part * kBlockSize;
    const long result =
        insist([&] { return raw_syscall(SYS_madvise, start, std::min(kBlockSize, range.end() - start), advice); });
    if (result != 0) error.store(static_cast<int>(result), std::memory_order_relaxed);
  };
  copiers_.run(static_cast<unsigned>((range.size + kBlockSize - 1) / kBlockSize), body);
  return error.load(std::memory_order_relaxed);
}

void Staging::empty() noexcept {
  empty(plain_);
  empty(locked_);
  raw_syscall(SYS_madvise, kHuge.start, kHuge.size, MADV_DONTNEED);
}

void Staging::empty(Area& area) noexcept {
  const Range range = area.range;
  if (area.next == range.start) return;
  long error = insist([&] { return host_.unregister_range(range); });
  if (error == 0) error = discard({range.start, area.next - range.start}, area.discard);
  if (error == 0) error = insist([&] { return host_.register_range(range, kTrackMissing); });
  if (error != 0) log_error("cannot empty the staging area: error {}", -error);
  area.next = range.start;
}

}  // namespace mirrorcl::mirror
