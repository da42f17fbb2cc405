// SPDX-License-Identifier: Apache-2.0
// Device memory in huge pages. The kernel maps a huge page of a file as one only where userfaultfd does not watch, so a
// block that D may use as it likes is unregistered ("open"), and registered again before anything of it changes.
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>

#include "base/memory_file.h"
#include "base/pagemap.h"
#include "base/raw_syscall.h"
#include "device/cpu/mmu.h"
#include "mirror/clock.h"

namespace mirrorcl::device {
namespace {

using mirror::kBlockPages;
using mirror::kBlockSize;
using mirror::kPageSize;
using mirror::Range;

constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE; newer than Debian 12's headers

// A huge page costs 0.1 ms where the kernel has one at hand, and several where a hypervisor has to find the memory for
// it, which small pages that others have just freed do not need. Such may cost as much as has been lost without them so
// far, at so much for a block.
constexpr std::uint64_t kSlowNs = 300'000;
constexpr std::int64_t kLostNs = 350'000;
constexpr std::int64_t kMostLostNs = 100'000'000;

}  // namespace

bool Mmu::may_make_huge() noexcept {
  if (blocks_without_ > 0) {
    --blocks_without_;
    return false;
  }
  lost_ns_ = std::min(lost_ns_ + kLostNs, kMostLostNs);
  return lost_ns_ > 0;
}

// Gives the file a huge page for the block, which it shows in the view. False: small pages, or none.
bool Mmu::make_huge(std::uint64_t address) noexcept {
  const std::uint64_t begin = mirror::now_ns();
  (void)raw_syscall(SYS_madvise, view_.start, view_.size, MADV_HUGEPAGE);
  const long populated = raw_syscall(SYS_madvise, view_.start, view_.size, kPopulateWrite);
  const std::uint64_t took = mirror::now_ns() - begin;
  if (took > kSlowNs) lost_ns_ -= static_cast<std::int64_t>(took);
  if (populated == 0 && is_mapped_huge(own_pagemap_, view_.start, view_.size)) {
    next_without_ = kFewWithout;
    return true;
  }
  (void)punch_memory_file(memory_, address, kBlockSize);
  blocks_without_ = next_without_;
  next_without_ = std::min(next_without_ * 2, kManyWithout);
  return false;
}

void* Mmu::allocate_block(std::uint64_t address) noexcept {
  if (own_pagemap_ < 0 || device_pagemap_.load(std::memory_order_acquire) < 0 || uffd() < 0) return nullptr;
  Large* block = large_.find(address);
  const bool is_kept = block != nullptr && block->kept;
  if (block != nullptr && !is_kept) return nullptr;
  if (!is_kept && !may_make_huge()) return nullptr;
  if (block == nullptr) block = large_.add(address);
  if (block == nullptr) return nullptr;
  const long view = raw_syscall(SYS_mmap, view_.start, view_.size, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_FIXED | MAP_NORESERVE, memory_, address);
  bool usable = view == static_cast<long>(view_.start);
  if (usable) (void)raw_syscall(SYS_madvise, view_.start, view_.size, MADV_DONTFORK);
  if (usable && !is_kept) usable = make_huge(address);
  if (!usable) {
    if (!is_kept) large_.remove(*block);
    return nullptr;
  }
  large_.use(*block);
  block->set_live({0, kBlockPages});
  return reinterpret_cast<void*>(view_.start);
}

int Mmu::map_block(std::uint64_t address) noexcept {
  const int error = unregister({address, kBlockSize});
  if (error == 0) block_is_mapped(address);
  return error != 0 ? error : replay({address, kBlockSize});
}

void Mmu::block_is_mapped(std::uint64_t address) noexcept {
  Large* block = large_.find(address);
  if (block == nullptr) return;
  large_.note_table(address, false);
  block->open = true;
}

// Its accesses fault to us again where nothing is mapped.
int Mmu::close(Large& block) noexcept {
  const int error = register_as({block.base, kBlockSize}, kAllFaults);
  if (error == 0) block.open = false;
  return error;
}

// The same, and a huge page is mapped no longer: the kernel drops it when the mapping is split in its middle. At no
// moment can D reach the block without us.
int Mmu::close_and_unmap(Large& block) noexcept {
  const Range range{block.base, kBlockSize};
  int error = register_as(range, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
  if (error == 0) block.open = false;
  if (error == 0) error = register_as({range.start, kPageSize}, kAllFaults);
  if (error == 0) error = register_as(range, kAllFaults);
  return error;
}

// Whether D has any page of `range` mapped.
bool Mmu::is_mapped(Range range) noexcept {
  std::uint64_t entries[kBlockPages];
  const int error = read_pagemap(device_pagemap_.load(std::memory_order_acquire), range.start, range.size, entries);
  if (error != 0) return error != -EIO;
  return std::any_of(entries, entries + range.size / kPageSize,
                     [](std::uint64_t entry) { return (entry & (kPagemapPresent | kPagemapSwapped)) != 0; });
}

}  // namespace mirrorcl::device
