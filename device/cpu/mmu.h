// SPDX-License-Identifier: Apache-2.0
// The device's MMU, driven from the application: D's page tables through D's userfaultfd, device memory through its
// file. Raw system calls only, no allocation: usable in the mirror's pinned service thread. Results are 0 or -errno.
//
// Nothing fails because D is dead: its page tables are gone then, which is what an unmap wanted and what a map will
// find again.
#pragma once

#include <linux/userfaultfd.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "device/cpu/large_blocks.h"
#include "mirror/device/operations.h"

namespace mirrorcl::device {

class Mmu {
 public:
  // `memory`: the device memory file; stays the caller's. `tables`: LargeBlocks::kBytes of zeros; `view`: 2 MiB of
  // address space; both are nobody else's, and never migrate.
  Mmu(int memory, void* tables, mirror::Range view) noexcept : memory_(memory), large_(tables), view_(view) {}

  // D's userfaultfd, -1 for none; stays the caller's. May change while calls are under way: they then fail or finish on
  // the old one.
  void set_uffd(int uffd) noexcept { uffd_.store(uffd, std::memory_order_release); }
  int uffd() const noexcept { return uffd_.load(std::memory_order_acquire); }
  void set_memory(int memory) noexcept { memory_ = memory; }
  // /proc/PID/pagemap of D and of this process, -1 for none: then no huge pages are used. Stay the caller's.
  void set_pagemaps(int device, int own) noexcept {
    device_pagemap_.store(device, std::memory_order_release);
    own_pagemap_ = own;
  }
  // Bytes of memory that holds nothing, kept for blocks that come again.
  void limit_kept(std::uint64_t bytes) noexcept { large_.limit_kept(bytes); }

  int read_faults(std::span<uffd_msg> messages) noexcept;  // number of messages; 0 if there is none

  // Bytes.
  std::uint64_t memory_in_use() const noexcept;
  int copy_in(mirror::Range range, const void* source) noexcept;
  // Any thread.
  mirror::Progress copy_in_mapped(mirror::Range range, const void* source, mirror::Access access) noexcept;
  int copy_out(mirror::Range range, void* destination) noexcept;
  int zero_fill(mirror::Range range) noexcept;
  int map(mirror::Range range, mirror::Access access) noexcept;
  int protect(mirror::Range range, mirror::Access access) noexcept;
  int unmap(mirror::Range range) noexcept;
  // Any thread.
  int vacate(mirror::Range range) noexcept;
  int replay(mirror::Range range) noexcept;

  // Whole blocks in huge pages; `address` is the block's. See mirror/device/operations.h.
  void* allocate_block(std::uint64_t address) noexcept;
  int map_block(std::uint64_t address) noexcept;
  // D may have a page table there, which keeps the kernel from mapping a huge page. D's own munmap frees it; then it
  // has none, and does not fault there any more: see block_is_mapped().
  bool has_table(std::uint64_t address) const noexcept { return large_.has_table(address); }
  // D's accesses to the block, which allocate_block() gave, reach it without us from now on.
  void block_is_mapped(std::uint64_t address) noexcept;
  void free_kept() noexcept;

  // Frees memory that is not the mirror's, of any kind. Any thread.
  int free_shared(mirror::Range range) noexcept;
  // From now on D's accesses to `range` go straight to device memory, or fault again.
  int unregister(mirror::Range range) noexcept;
  int register_again(mirror::Range range) noexcept;

 private:
  using Large = LargeBlocks::Block;
  static constexpr std::uint64_t kAllFaults =
      UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP;
  // Blocks that do without a huge page after the kernel had none, the first time and at most.
  static constexpr unsigned kFewWithout = 8;
  static constexpr unsigned kManyWithout = 4096;
  static mirror::PageRun pages_of(mirror::Range range) noexcept;
  // Calls what(Range, Large*) for `range`, or for each part of it in a block of its own if there are large ones.
  template <typename What>
  int for_each_part(mirror::Range range, What what) noexcept;
  void note_tables(mirror::Range range) noexcept;
  int control(unsigned long request, void* argument) noexcept;
  int write_protect(mirror::Range range, std::uint64_t mode) noexcept;
  int register_as(mirror::Range range, std::uint64_t mode) noexcept;
  int dead_or(int result, mirror::Range range) noexcept;
  int close(Large& block) noexcept;
  int close_and_unmap(Large& block) noexcept;
  bool is_mapped(mirror::Range range) noexcept;
  int map_small(mirror::Range range, mirror::Access access) noexcept;
  mirror::Progress copy_in_small(mirror::Range range, const void* source, mirror::Access access) noexcept;
  int free_block(Large& block) noexcept;
  int free_or_keep(Large& block) noexcept;
  bool may_make_huge() noexcept;
  bool make_huge(std::uint64_t address) noexcept;

  int memory_;
  LargeBlocks large_;
  const mirror::Range view_;
  std::atomic<int> device_pagemap_{-1};
  int own_pagemap_ = -1;
  // By blocks in small pages, less what slow huge pages have cost.
  std::int64_t lost_ns_ = 0;
  // Where the kernel had none, so many blocks do without.
  unsigned blocks_without_ = 0;
  unsigned next_without_ = kFewWithout;
  std::atomic<int> uffd_{-1};
  std::atomic<bool> can_install_protected_{true};  // UFFDIO_CONTINUE_MODE_WP, Linux 6.4
};

}  // namespace mirrorcl::device
