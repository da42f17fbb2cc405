// SPDX-License-Identifier: Apache-2.0
// Recognises streams among the faults of a device: accesses that walk through memory, page after page or with a
// constant distance. Many streams at once: each compute unit walks through each array of the kernel.
//
// A unit that has come to its next work-groups goes on elsewhere in the same arrays. Its stream would begin from
// nothing each time, so a fault that continues none is taken for the beginning of a long one, as long as such guesses
// prove right: each stream that has become long by itself allows one guess at a time, until one goes no further.
//
// Locking: service thread only.
#pragma once

#include <array>
#include <cstdint>

namespace mirrorcl::mirror {

class FaultHistory {
 public:
  struct Stream {
    std::uint32_t streak = 1;       // faults in a row at one distance, the last one included
    std::int32_t stride_pages = 0;  // that distance; 0: no stream
  };
  // A stream of neighbours this long takes whole blocks.
  static constexpr std::uint32_t kLong = 10;

  // A fault on page number `page` (address / 4096). Which stream it continues.
  Stream note(std::uint64_t page) noexcept;
  // The fault noted last has been answered with all pages from `first` to `last`: the stream goes on behind them.
  void served(std::uint64_t first, std::uint64_t last) noexcept;
  // And with more pages ahead, up to `last`, at the stream's distance.
  void brought_ahead(std::uint64_t last) noexcept { entries_[newest_].last = last; }

 private:
  static constexpr unsigned kEntries = 64;
  static constexpr std::int64_t kMaxStride = 512;  // pages: a block

  struct Entry {
    std::uint64_t last = 0;   // the last page of it that faulted or was brought ahead
    std::uint64_t above = 0;  // the first page behind what was served, upwards and downwards
    std::uint64_t below = 0;
    std::uint64_t used = 0;  // when; 0: never
    bool guessed = false;    // its beginning was, and nothing has continued it yet
    Stream stream;
  };

  unsigned continued_by(std::uint64_t page) const noexcept;
  unsigned nearest(std::uint64_t page) const noexcept;
  unsigned oldest() const noexcept;
  void extend(Entry& entry, std::int32_t stride) noexcept;
  void begin(Entry& entry) noexcept;

  std::array<Entry, kEntries> entries_{};
  unsigned newest_ = 0;
  unsigned newest_long_ = 0;
  unsigned guesses_allowed_ = 0;  // less those that are open
  std::uint64_t clock_ = 0;
};

}  // namespace mirrorcl::mirror
