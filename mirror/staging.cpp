// SPDX-License-Identifier: Apache-2.0
#include "mirror/staging.h"

#include <errno.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <span>

#include "base/log.h"
#include "base/raw_syscall.h"
#include "mirror/clock.h"
#include "mirror/insist.h"

namespace mirrorcl::mirror {

namespace {

constexpr int kPopulateWrite = 23;   // MADV_POPULATE_WRITE, 5.14
constexpr int kDontneedLocked = 24;  // MADV_DONTNEED_LOCKED, 5.18
constexpr std::uint64_t kSparesRestNs = 1'000'000'000;

}  // namespace

Staging::Staging(const Userfaultfd& host, CopyThreads& copiers, std::uint64_t spare_bytes) noexcept
    : host_(host),
      copiers_(copiers),
      plain_{kPlain, MADV_DONTNEED, kPlain.start},
      locked_{kLocked, kDontneedLocked, kLocked.start},
      spare_limit_(std::min<std::uint64_t>(spare_bytes / kBlockSize, kMostSpares)) {}

Result<void> Staging::open() {
  // A forked child needs nothing of it, and pages that are shared with one cannot be moved.
  if (madvise(reinterpret_cast<void*>(window::kStaging.start), window::kStaging.size, MADV_DONTFORK) != 0) {
    return fail_errno("madvise(MADV_DONTFORK)", errno);
  }
  int error = host_.register_range(kPlain, kTrackMissing);
  if (error == 0) error = host_.register_range(kBlockArea, kTrackMissing);
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
  if (area.next + size > area.range.end()) {
    empty(area);
    if (spares_ != 0 && now_ns() - spares_used_ns_ > kSparesRestNs) free_spares();
  }
  if (area.next + size > area.range.end()) return 0;
  std::uint64_t start = area.next;
  area.next += size;
  return start;
}

std::uint64_t Staging::take_block() noexcept {
  // There are kInTransit more than are ever kept.
  const std::span usable = std::span(blocks_).first(kInTransit + spare_limit_);
  auto free = std::ranges::find(usable, Holds::kNothing);
  if (free == usable.end()) {
    empty_blocks(is_used);
    free = std::ranges::find(usable, Holds::kNothing);
    if (free == usable.end()) return 0;
  }
  *free = Holds::kAnything;
  return block_at(static_cast<std::size_t>(free - usable.begin())).start;
}

void Staging::keep(std::uint64_t staging, Kind kind) noexcept {
  const bool is_locked = staging < kBlockArea.start || staging >= kBlockArea.end();
  const bool huge = kind == Kind::kHugePage;
  if (is_locked) return;
  if (spares_ == spare_limit_) {
    // Rather than one of the other kind, which nobody has asked for.
    const auto other = std::ranges::find(blocks_, huge ? Holds::kSmallPages : Holds::kHugePage);
    if (other == blocks_.end()) return;
    *other = Holds::kAnything;
    --spares_;
  }
  blocks_[(staging - kBlockArea.start) / kBlockSize] = huge ? Holds::kHugePage : Holds::kSmallPages;
  ++spares_;
  spares_used_ns_ = now_ns();
}

std::uint64_t Staging::take_spare(Kind kind) noexcept {
  if (spares_ == 0) return 0;
  const auto found = std::ranges::find(blocks_, kind == Kind::kHugePage ? Holds::kHugePage : Holds::kSmallPages);
  if (found == blocks_.end()) return 0;
  *found = Holds::kAnything;
  --spares_;
  spares_used_ns_ = now_ns();
  return block_at(static_cast<std::size_t>(found - blocks_.begin())).start;
}

bool Staging::free_spares() noexcept {
  if (spares_ == 0) return false;
  empty_blocks(is_spare);
  spares_ = 0;
  return true;
}

void Staging::empty() noexcept {
  empty(plain_);
  empty(locked_);
  free_spares();
  empty_blocks(is_used);
  raw_syscall(SYS_madvise, kHuge.start, kHuge.size, MADV_DONTNEED);
}

void Staging::empty(Area& area) noexcept {
  if (area.next == area.range.start) return;
  if (empty({area.range.start, area.next - area.range.start}, area.discard) == 0) area.next = area.range.start;
}

// Those that lie side by side together.
void Staging::empty_blocks(bool (*which)(Holds)) noexcept {
  for (std::size_t first = 0; first < blocks_.size(); ++first) {
    std::size_t end = first;
    while (end < blocks_.size() && which(blocks_[end])) ++end;
    if (end == first) continue;
    const int error = empty({block_at(first).start, (end - first) * kBlockSize}, MADV_DONTNEED);
    std::fill(&blocks_[first], &blocks_[end], error == 0 ? Holds::kNothing : Holds::kAnything);
    first = end;
  }
}

int Staging::empty(Range range, int advice) noexcept {
  long error = insist([&] { return host_.unregister_range(range); });
  if (error == 0) {
    const int discarded = discard(range, advice);
    error = insist([&] { return host_.register_range(range, kTrackMissing); });
    if (discarded != 0) error = discarded;
  }
  if (error != 0) log_error("cannot empty the staging area: error {}", -error);
  return static_cast<int>(error);
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

}  // namespace mirrorcl::mirror
