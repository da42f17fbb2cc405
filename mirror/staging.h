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
#include "mirror/address_space.h"
#include "mirror/copy_threads.h"
#include "mirror/page_mask.h"
#include "mirror/userfaultfd.h"

namespace mirrorcl::mirror {

class Staging {
 public:
  // Small enough that its pages, once freed, are warm when they are allocated again.
  static constexpr std::uint64_t kSize = 8 * window::kMiB;

  Staging(const Userfaultfd& host, CopyThreads& copiers) noexcept;
  Result<void> open();

  // The address of an empty range of `size` bytes (at most kBlockSize). What was taken before must no longer be needed.
  std::uint64_t take(std::uint64_t size) noexcept { return take(plain_, size); }
  // The same in locked memory, the only one that MOVE takes locked pages to. It counts against RLIMIT_MEMLOCK from the
  // first call on; 0 if the limit is lower.
  std::uint64_t take_locked(std::uint64_t size) noexcept;
  // A range of one block with a huge page in it, for contents that are to be moved out of it; 0 if the kernel has none.
  std::uint64_t take_huge(const AddressSpace& space) noexcept;
  // Where take() takes from: registered like the application's memory.
  static constexpr Range area() noexcept { return kPlain; }
  // Empties it all now, so that it holds no memory while nothing is going on.
  void empty() noexcept;

 private:
  struct Area {
    Range range;
    int discard;         // the advice that empties it
    std::uint64_t next;  // address; what lies before it may hold pages
  };
  std::uint64_t take(Area& area, std::uint64_t size) noexcept;
  void empty(Area& area) noexcept;
  int discard(Range range, int advice) noexcept;

  static constexpr Range kPlain{window::kStaging.start, kSize};
  static constexpr Range kLocked{kPlain.end(), kBlockSize};
  // Not registered: what lies there is this thread's. A page that was not moved out of it is used again.
  static constexpr Range kHuge{kLocked.end(), kBlockSize};
  enum class Lock : std::uint8_t { kUntried, kHeld, kRefused };

  const Userfaultfd& host_;
  CopyThreads& copiers_;
  Area plain_;
  Area locked_;
  Lock lock_ = Lock::kUntried;
};

}  // namespace mirrorcl::mirror
