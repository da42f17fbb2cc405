// SPDX-License-Identifier: Apache-2.0
// A descriptor of the file that a mapping of this process shows. The kernel hands out none for a mapping, so it is
// looked for: through /proc/self/map_files (with CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN), among the descriptors that
// the process has open, and by the file's name. What is found counts only if the kernel calls it the same file.
//
// Raw system calls only, no allocation: usable in pinned threads. Locking: service thread only.
#pragma once

#include <cstdint>

#include "mirror/address_space.h"

namespace mirrorcl::mirror {

struct MappedFile {
  UniqueFd fd;         // open for writing only if the mapping may be written
  std::uint64_t size;  // bytes
  int error;           // 0 or -errno: -ENOTSUP if it is no regular file, -EACCES if none of the three ways worked
};

// Ways to a descriptor; tests try each alone.
inline constexpr unsigned kByMapping = 1;     // /proc/self/map_files
inline constexpr unsigned kByDescriptor = 2;  // one that is open
inline constexpr unsigned kByName = 4;
inline constexpr unsigned kAnyWay = kByMapping | kByDescriptor | kByName;

// As the list of mappings shows memory files; all zero if `fd` is none.
FileIdentity identity_of(int fd) noexcept;

MappedFile open_mapped_file(const AddressSpace& space, const MappingInfo& mapping, unsigned ways = kAnyWay) noexcept;

}  // namespace mirrorcl::mirror
