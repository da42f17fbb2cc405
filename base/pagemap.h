// SPDX-License-Identifier: Apache-2.0
// The page tables of a process, as the kernel shows them in its /proc/PID/pagemap. The functions take a descriptor of
// that and make raw system calls only, no allocation: usable in pinned threads. Addresses and sizes are in bytes, of
// whole pages.
#pragma once

#include <errno.h>
#include <sys/ioctl.h>

#include <cstdint>
#include <span>

#include "base/raw_syscall.h"

namespace mirrorcl {

// Bits of an entry.
inline constexpr std::uint64_t kPagemapPresent = std::uint64_t{1} << 63;
inline constexpr std::uint64_t kPagemapSwapped = std::uint64_t{1} << 62;
inline constexpr std::uint64_t kPagemapOfFile = std::uint64_t{1} << 61;  // of a file or of shared anonymous memory
inline constexpr std::uint64_t kPagemapGuard = std::uint64_t{1} << 58;

// The entries of `size` bytes from `start` on. 0 or -errno; -EIO: the process has ended.
inline int read_pagemap(int fd, std::uint64_t start, std::uint64_t size, std::uint64_t* entries) noexcept {
  constexpr std::uint64_t kPageSize = 4096;
  const std::uint64_t pages = size / kPageSize;
  for (std::uint64_t done = 0; done < pages;) {
    const long result = raw_syscall(SYS_pread64, fd, entries + done, (pages - done) * sizeof *entries,
                                    (start / kPageSize + done) * sizeof *entries);
    if (result == -EINTR) continue;
    if (result <= 0) return result == 0 ? -EIO : static_cast<int>(result);
    done += static_cast<std::uint64_t>(result) / sizeof *entries;
  }
  return 0;
}

// Categories of pages, as the kernel's PAGEMAP_SCAN has them.
inline constexpr std::uint64_t kPageIsPresent = 1 << 3;
inline constexpr std::uint64_t kPageIsSwapped = 1 << 4;
inline constexpr std::uint64_t kPageIsSharedZero = 1 << 5;  // the kernel's one page of zeros
inline constexpr std::uint64_t kPageIsHuge = 1 << 6;

struct PagemapRegion {  // struct page_region
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};

struct PagemapFilter {
  std::uint64_t all = 0;   // of all these categories,
  std::uint64_t any = 0;   // of one of these at least, if there are any,
  std::uint64_t none = 0;  // and of none of these
};

// Writes the regions of `size` bytes from `start` on whose pages `wanted` is about to `found`, as many as fit, in
// ascending order; *walked_to: up to where it has looked. Their number or -errno; -ENOTTY before Linux 6.7.
inline long scan_pagemap(int fd, std::uint64_t start, std::uint64_t size, const PagemapFilter& wanted,
                         std::span<PagemapRegion> found, std::uint64_t* walked_to) noexcept {
  struct Scan {  // struct pm_scan_arg
    std::uint64_t size;
    std::uint64_t flags;
    std::uint64_t start;
    std::uint64_t end;
    std::uint64_t walked_to;
    std::uint64_t regions;
    std::uint64_t region_count;
    std::uint64_t max_pages;
    std::uint64_t inverted;
    std::uint64_t all_of;
    std::uint64_t any_of;
    std::uint64_t returned;
  };
  Scan scan{};
  scan.size = sizeof scan;
  scan.start = start;
  scan.end = start + size;
  scan.regions = reinterpret_cast<std::uint64_t>(found.data());
  scan.region_count = found.size();
  scan.inverted = wanted.none;
  scan.all_of = wanted.all | wanted.none;
  scan.any_of = wanted.any;
  scan.returned = wanted.all;
  const long result = raw_syscall(SYS_ioctl, fd, _IOWR('f', 16, Scan), &scan);
  *walked_to = scan.walked_to;
  return result;
}

// Whether all of it is mapped as huge pages. False also before Linux 6.7.
inline bool is_mapped_huge(int fd, std::uint64_t start, std::uint64_t size) noexcept {
  PagemapRegion region{};
  std::uint64_t walked_to = 0;
  return scan_pagemap(fd, start, size, {.all = kPageIsHuge}, {&region, 1}, &walked_to) == 1 && region.start == start &&
         region.end == start + size;
}

}  // namespace mirrorcl
