// SPDX-License-Identifier: Apache-2.0
#include "mirror/staging.h"

#include <sys/mman.h>

#include "base/log.h"
#include "base/raw_syscall.h"

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

void Staging::empty() noexcept {
  if (next_ == kRange.start) return;
  long error = host_.unregister_range(kRange);
  if (error == 0) error = raw_syscall(SYS_madvise, kRange.start, next_ - kRange.start, MADV_DONTNEED);
  if (error == 0) error = host_.register_range(kRange, kTrackMissing);
  if (error != 0) log_error("cannot empty the staging area: error {}", -error);
  next_ = kRange.start;
}

}  // namespace mirrorcl::mirror
