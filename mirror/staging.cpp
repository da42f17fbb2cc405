// SPDX-License-Identifier: Apache-2.0
#include "mirror/staging.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "base/log.h"
#include "base/raw_syscall.h"
#include "mirror/insist.h"

namespace mirrorcl::mirror {

Result<void> Staging::open() {
  int error = host_.register_range(kRange, kTrackMissing);
  if (error != 0) return fail_errno("cannot register the staging area with userfaultfd", -error);
  return {};
}

std::uint64_t Staging::take(std::uint64_t size) noexcept {
  // Whole blocks are aligned like their source, so that huge pages move whole.
  if (size == kBlockSize) next_ = block_down(next_ + kBlockSize - 1);
  if (next_ + size > kRange.end()) empty();
  std::uint64_t start = next_;
  next_ += size;
  return start;
}

int Staging::discard(Range range) noexcept {
  std::atomic<int> error{0};
  auto body = [&](unsigned part) {
    const std::uint64_t start = range.start + part * kBlockSize;
    const long result = insist(
        [&] { return raw_syscall(SYS_madvise, start, std::min(kBlockSize, range.end() - start), MADV_DONTNEED); });
    if (result != 0) error.store(static_cast<int>(result), std::memory_order_relaxed);
  };
  copiers_.run(static_cast<unsigned>((range.size + kBlockSize - 1) / kBlockSize), body);
  return error.load(std::memory_order_relaxed);
}

void Staging::empty() noexcept {
  if (next_ == kRange.start) return;
  long error = insist([&] { return host_.unregister_range(kRange); });
  if (error == 0) error = discard({kRange.start, next_ - kRange.start});
  if (error == 0) error = insist([&] { return host_.register_range(kRange, kTrackMissing); });
  if (error != 0) log_error("cannot empty the staging area: error {}", -error);
  next_ = kRange.start;
}

}  // namespace mirrorcl::mirror
