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

#include "mirror/device/operations.h"

namespace mirrorcl::device {

class Mmu {
 public:
  // `memory`: the device memory file; stays the caller's.
  explicit Mmu(int memory) noexcept : memory_(memory) {}

  // D's userfaultfd, -1 for none; stays the caller's. May change while calls are under way: they then fail or finish on
  // the old one.
  void set_uffd(int uffd) noexcept { uffd_.store(uffd, std::memory_order_release); }
  int uffd() const noexcept { return uffd_.load(std::memory_order_acquire); }
  void set_memory(int memory) noexcept { memory_ = memory; }

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
  int replay(mirror::Range range) noexcept;
  // From now on D's accesses to `range` go straight to device memory, or fault again.
  int unregister(mirror::Range range) noexcept;
  int register_again(mirror::Range range) noexcept;

 private:
  int control(unsigned long request, void* argument) noexcept;
  int write_protect(mirror::Range range, std::uint64_t mode) noexcept;

  int memory_;
  std::atomic<int> uffd_{-1};
  std::atomic<bool> can_install_protected_{true};  // UFFDIO_CONTINUE_MODE_WP, Linux 6.4
};

}  // namespace mirrorcl::device
