// SPDX-License-Identifier: Apache-2.0
// The application's userfaultfd: faults on pages that are away, and the events of its address space. A thin wrapper
// over the ioctls that returns what the kernel said, partial progress included. Raw system calls only, usable in pinned
// threads.
//
// EAGAIN from any operation that moves pages means that an event (or the thread that caused it) is still on its way:
// the caller must read events and try again later. The kernel checks this under its own lock, so success means that no
// unmap, remap or removal that has already happened is still unknown to whoever reads the events.
#pragma once

#include <linux/userfaultfd.h>

#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"
#include "mirror/device/operations.h"

namespace mirrorcl::mirror {

// Constants newer than the installed headers.
inline constexpr std::uint64_t kFeatureWpShmem = std::uint64_t{1} << 12;  // UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 5.19
inline constexpr std::uint64_t kFeatureMove = std::uint64_t{1} << 16;     // UFFD_FEATURE_MOVE, 6.8

inline constexpr std::uint64_t kTrackMissing = UFFDIO_REGISTER_MODE_MISSING;
inline constexpr std::uint64_t kTrackWrites = UFFDIO_REGISTER_MODE_WP;
inline constexpr std::uint64_t kTrackMinor = UFFDIO_REGISTER_MODE_MINOR;

class Userfaultfd {
 public:
  enum class Wake : bool { kNo, kYes };

  // The features that the mirror needs are required; MOVE is used if the kernel has it. Errors name the permission or
  // the kernel version that is missing.
  Userfaultfd() = default;  // none
  static Result<Userfaultfd> open(bool use_move = true);

  int fd() const noexcept { return fd_.get(); }
  bool can_move() const noexcept { return (features_ & kFeatureMove) != 0; }

  // 0 or -errno. Registering what is registered already only costs a system call.
  int register_range(Range range, std::uint64_t tracking) const noexcept;
  int unregister_range(Range range) const noexcept;  // also wakes
  int wake(Range range) const noexcept;
  // Write-protects present pages of `range`, or lifts the protection and wakes.
  int write_protect(Range range, bool protect) const noexcept;
  // Any thread: an event is on its way: something has been unmapped, moved or is being discarded, and the thread that
  // does so waits until the event is read, or has not gone on since.
  bool events_on_their_way() const noexcept;
  // 0 if `range` lies in one registered mapping of anonymous memory (its first page: in one of a shared file) and no
  // event is on its way, at the moment of the call. -EAGAIN: one is; -ENOENT: something else is there.
  int confirm_anonymous(Range range) const noexcept;
  int confirm_shared(Range range) const noexcept;  // may map the first page
  // The same if the first page of `range` lies in a registered mapping of any kind, and is not there.
  int confirm_registered(Range range) const noexcept;

  // Takes the pages of `source` to `destination`, which must be empty and registered. Missing source pages end the
  // operation with -ENOENT unless `skip_holes`. Pages shared with another process or pinned for DMA answer -EBUSY.
  Progress move(std::uint64_t destination, Range source, bool skip_holes) const noexcept;
  // Fills missing pages of `destination` with `source` (-EEXIST: a page is there; -ENOENT: not registered). With
  // `protect` they are write-protected from the start.
  Progress copy(Range destination, std::uint64_t source, Wake wake, bool protect = false) const noexcept;
  Progress zero(Range range) const noexcept;  // wakes
  // Installs the pages of a shared file that exist in `range` (-EFAULT: one does not). Wakes.
  Progress install(Range range) const noexcept;

  // Reads pending messages without blocking; returns their number, 0 if there is none, or -errno.
  int read(std::span<uffd_msg> messages) const noexcept;

 private:
  UniqueFd fd_;
  std::uint64_t features_ = 0;
};

}  // namespace mirrorcl::mirror
