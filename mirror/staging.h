// SPDX-License-Identifier: Apache-2.0
// Pages in transit: empty ranges of the window that UFFDIO_MOVE takes the application's pages to. Used front to back,
// and emptied in bulk when used up.
//
// The area is registered with the application's own userfaultfd, because only then does MOVE check, under the kernel's
// lock, that no event is outstanding. Emptying it would raise an event that this very thread would have to read, so it
// is unregistered for the moment: nobody else touches it.
//
// Locking: service thread only.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "device/window.h"
#include "mirror/copy_threads.h"
#include "mirror/page_mask.h"
#include "mirror/userfaultfd.h"

namespace mirrorcl::mirror {

class Staging {
 public:
  // Small enough that its pages, once freed, are warm when they are allocated again.
  static constexpr std::uint64_t kSize = 8 * window::kMiB;

  Staging(const Userfaultfd& host, CopyThreads& copiers) : host_(host), copiers_(copiers) {}
  Result<void> open();

  // The address of an empty range of `size` bytes (at most kBlockSize). What was taken before must no longer be needed.
  std::uint64_t take(std::uint64_t size) noexcept;
  // Where it is: registered like the application's memory.
  static constexpr Range area() noexcept { return kRange; }
  // Empties the area now, so that it holds no memory while nothing is going on.
  void empty() noexcept;

 private:
  int discard(Range range) noexcept;

  static constexpr Range kRange{window::kStaging.start, kSize};
  const Userfaultfd& host_;
  CopyThreads& copiers_;
  std::uint64_t next_ = kRange.start;
};

}  // namespace mirrorcl::mirror
