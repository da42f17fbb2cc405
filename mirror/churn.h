// SPDX-License-Identifier: Apache-2.0
// Which pages the application unmapped or moved a short while ago. Such addresses come and go; the mapping of a page
// that may be unmapped at any moment had better not be replaced (HostMappings::replace), so it does not become
// coherent for a while.
//
// Locking: service thread only.
#pragma once

#include <array>
#include <cstdint>

#include "mirror/page_mask.h"

namespace mirrorcl::mirror {

class Churn {
 public:
  explicit Churn(std::uint32_t memory_ms = 200) noexcept : memory_ns_(std::uint64_t{memory_ms} * 1'000'000) {}

  // Pages of `run` of the block at `base` were unmapped at `now_ns`. Of blocks that share a place in the table the last
  // one is remembered.
  void note(std::uint64_t base, PageRun run, std::uint64_t now_ns) noexcept {
    Entry& entry = entry_of(base);
    if (entry.base != base || now_ns - entry.since_ns > memory_ns_) entry = {base, 0, {}};
    entry.pages.set(run);
    entry.since_ns = now_ns;
  }
  // The pages of the block at `base` that should be left alone.
  PageMask recent(std::uint64_t base, std::uint64_t now_ns) const noexcept {
    const Entry& entry = entry_of(base);
    return entry.base == base && now_ns - entry.since_ns < memory_ns_ ? entry.pages : PageMask();
  }

 private:
  struct Entry {
    std::uint64_t base = 0;
    std::uint64_t since_ns = 0;  // when the last page was added
    PageMask pages;
  };
  static constexpr std::size_t kEntries = 256;

  const Entry& entry_of(std::uint64_t base) const noexcept { return entries_[base / kBlockSize % kEntries]; }
  Entry& entry_of(std::uint64_t base) noexcept { return entries_[base / kBlockSize % kEntries]; }

  const std::uint64_t memory_ns_;
  std::array<Entry, kEntries> entries_;
};

}  // namespace mirrorcl::mirror
