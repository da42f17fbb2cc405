// SPDX-License-Identifier: Apache-2.0
// How much memory a pointer stands for, where it is one that glibc's malloc has returned: its allocator notes the size
// in front of each allocation, and keeps marks in front of the next one that must agree.
//
// A hint. Where the pointer is none of malloc's (one into the middle of an allocation, an allocator of the program's
// own), the words in front of it are anything at all; that they and what they lead to look like a row of allocations,
// to the flag, is unlikely, not impossible.
//
// Locking: any thread.
#pragma once

#include <cstdint>

#include "mirror/device/operations.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {

namespace heap {

// In the low bits of a size, beside it (malloc/malloc.c, "chunk").
inline constexpr std::uint64_t kInUseBefore = 1;
inline constexpr std::uint64_t kMapped = 2;
inline constexpr std::uint64_t kOtherArena = 4;
inline constexpr std::uint64_t kFlags = kInUseBefore | kMapped | kOtherArena;
inline constexpr std::uint64_t kAlignment = 16;
inline constexpr std::uint64_t kSmallest = 32;
inline constexpr std::uint64_t kLargest = std::uint64_t{1} << 46;

struct Note {
  std::uint64_t size_before;  // of what lies in front if that is free; of a mapping's offset
  std::uint64_t size;         // with flags

  std::uint64_t bytes() const { return size & ~kFlags; }
  bool plausible() const { return bytes() % kAlignment == 0 && bytes() >= kSmallest && bytes() <= kLargest; }
};

// Whether allocations, in use or free, follow at `address`, behind the one with the note `first`, which is in use:
// some, or as many as there are up to the end of a page that nobody has used the next one of, as a heap's end is.
template <typename Read>
bool continues(std::uint64_t address, const Note& first, Read read) noexcept {
  constexpr int kEnough = 8;
  Note before = first;
  for (int i = 0; i < kEnough; ++i) {
    Note note{};
    const bool there = read(address, &note, sizeof note) == 0 && note.size != 0;
    if (!there) return i > 0 && address % kPageSize == 0;
    if (!note.plausible() || (note.size & kMapped) != 0) return false;
    if ((first.size & kOtherArena) == 0 && (note.size & kOtherArena) != 0) return false;
    const bool free_before = (note.size & kInUseBefore) == 0;
    if (free_before && (i == 0 || note.size_before != before.bytes())) return false;
    address += note.bytes();
    before = note;
  }
  return true;
}

}  // namespace heap

// The whole pages of the allocation that begins at `address`, none of which holds anything of another; of size 0: not
// known, or less than a page. read(address, destination, size) reads memory: 0 or -errno.
template <typename Read>
Range heap_extent(std::uint64_t address, Read read) noexcept {
  using heap::Note;
  constexpr Range kUnknown{0, 0};
  Note note{};
  if (address % heap::kAlignment != 0 || address < 2 * kPageSize) return kUnknown;
  const std::uint64_t chunk = address - sizeof note;
  if (read(chunk, &note, sizeof note) != 0 || !note.plausible()) return kUnknown;
  const std::uint64_t end = chunk + note.bytes();
  if ((note.size & heap::kFlags) == heap::kMapped) {
    // A mapping of its own, all of which is this allocation's.
    const std::uint64_t start = chunk - note.size_before;
    std::uint64_t last = 0;
    const bool whole = note.size_before < note.bytes() && start % kPageSize == 0 && end % kPageSize == 0;
    if (!whole || read(end - sizeof last, &last, sizeof last) != 0) return kUnknown;
    return {page_down(address), end - page_down(address)};
  }
  if ((note.size & heap::kMapped) != 0 || !heap::continues(end, note, read)) return kUnknown;
  const std::uint64_t first_page = page_up(address);
  const std::uint64_t end_page = page_down(end);
  return first_page < end_page ? Range{first_page, end_page - first_page} : kUnknown;
}

}  // namespace mirrorcl::mirror
