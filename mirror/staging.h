// SPDX-License-Identifier: Apache-2.0
// Pages in transit: empty ranges of the window that UFFDIO_MOVE takes the application's pages to. Emptied in bulk when
// used up.
//
// Whole blocks that went to a device leave pages behind here that cost as much to free as to allocate. Some are kept,
// and the blocks that come home next are filled into them and moved to the application: nothing is allocated for these.
//
// The area is registered with the application's own userfaultfd, because only then does MOVE check, under the kernel's
// lock, that no event is outstanding. Emptying it would raise an event that this very thread would have to read, so it
// is unregistered for the moment: nobody else touches it.
//
// Locking: service thread only.
#pragma once

#include <array>
#include <cstddef>
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
  static constexpr unsigned kMostSpares = 512;  // blocks

  // Keeps up to `spare_bytes`, in whole blocks, at most kMostSpares.
  Staging(const Userfaultfd& host, CopyThreads& copiers, std::uint64_t spare_bytes) noexcept;
  Result<void> open();

  // The address of an empty range of `size` bytes (at most kBlockSize); 0: what was used cannot be emptied, the log
  // says why. What was taken before must no longer be needed. Whole blocks are aligned like their source, so that huge
  // pages move whole.
  std::uint64_t take(std::uint64_t size) noexcept { return size == kBlockSize ? take_block() : take(plain_, size); }
  // The same in locked memory, the only one that MOVE takes locked pages to. It counts against RLIMIT_MEMLOCK from the
  // first call on; 0 if the limit is lower.
  std::uint64_t take_locked(std::uint64_t size) noexcept;
  // A range of one block with a huge page in it, for contents that are to be moved out of it; 0 if the kernel has none.
  std::uint64_t take_huge(const AddressSpace& space) noexcept;

  // Whether a block is of one huge page or of small ones.
  enum class Kind : std::uint8_t { kSmallPages, kHugePage };
  // The block that take() gave at `staging` has a page everywhere, and nobody needs their contents.
  void keep(std::uint64_t staging, Kind kind) noexcept;
  // A block with pages everywhere that may be filled and moved; 0: none of that kind was kept. What is not moved out of
  // it is lost.
  std::uint64_t take_spare(Kind kind) noexcept;
  // Frees what is kept. False: there was nothing.
  bool free_spares() noexcept;

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
  std::uint64_t take_block() noexcept;
  void empty(Area& area) noexcept;
  int empty(Range range, int advice) noexcept;
  int discard(Range range, int advice) noexcept;

  enum class Holds : std::uint8_t { kNothing, kAnything, kSmallPages, kHugePage };
  static constexpr bool is_spare(Holds holds) { return holds == Holds::kSmallPages || holds == Holds::kHugePage; }
  static constexpr bool is_used(Holds holds) { return holds == Holds::kAnything; }
  void empty_blocks(bool (*which)(Holds)) noexcept;

  static constexpr Range kPlain{window::kStaging.start, kSize};
  static constexpr Range kLocked{kPlain.end(), kBlockSize};
  // Not registered: what lies there is this thread's. A page that was not moved out of it is used again.
  static constexpr Range kHuge{kLocked.end(), kBlockSize};
  static constexpr unsigned kInTransit = 4;  // blocks that are emptied together
  static constexpr unsigned kBlocks = kInTransit + kMostSpares;
  static constexpr Range kBlockArea{kHuge.end(), std::uint64_t{kBlocks} * kBlockSize};
  static_assert(kBlockArea.end() <= window::kStaging.end());
  static constexpr Range block_at(std::size_t i) { return {kBlockArea.start + i * kBlockSize, kBlockSize}; }

  enum class Lock : std::uint8_t { kUntried, kHeld, kRefused };

  const Userfaultfd& host_;
  CopyThreads& copiers_;
  Area plain_;
  Area locked_;
  Lock lock_ = Lock::kUntried;
  std::array<Holds, kBlocks> blocks_{};
  std::size_t spare_limit_;  // blocks
  std::size_t spares_ = 0;
  std::uint64_t spares_used_ns_ = 0;
};

}  // namespace mirrorcl::mirror
