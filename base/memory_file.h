// SPDX-License-Identifier: Apache-2.0
// Sparse files on memory (memfd): the backing of device memory and of whatever else several address spaces map. The
// functions on a descriptor make raw system calls only, no allocation: usable in pinned threads. Offsets and sizes are
// in bytes; results are 0 or -errno.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "base/raw_syscall.h"
#include "base/result.h"
#include "base/spawn.h"
#include "base/unique_fd.h"

namespace mirrorcl {

// A file on memory of `size` bytes that is not executable by exec and closes on exec. kNotSupported if a file-size
// limit forbids it.
Result<int> create_memory_file(const char* name, std::uint64_t size);

struct HugePageFile {
  UniqueFd fd;
  std::string refusal;  // why it is like any other memory file; empty: it is not
  EndingChild maker;    // what is waited for with it, best later
};
// The same, of which a mapping can have huge pages (MADV_HUGEPAGE) also where the system gives none to shared memory
// (transparent_hugepage/shmem_enabled). That takes CAP_SYS_ADMIN, or permission to make a user namespace: a child
// does it. Without, it is like any other.
Result<HugePageFile> create_huge_page_file(const char* name, std::uint64_t size);

// -EFAULT if the source cannot be read.
inline int write_memory_file(int fd, std::uint64_t offset, const void* source, std::uint64_t size) noexcept {
  for (std::uint64_t done = 0; done < size;) {
    const long result =
        raw_syscall(SYS_pwrite64, fd, static_cast<const char*>(source) + done, size - done, offset + done);
    if (result == -EINTR) continue;
    if (result <= 0) return result == 0 ? -EIO : static_cast<int>(result);
    done += static_cast<std::uint64_t>(result);
  }
  return 0;
}

inline int read_memory_file(int fd, std::uint64_t offset, void* destination, std::uint64_t size) noexcept {
  for (std::uint64_t done = 0; done < size;) {
    const long result =
        raw_syscall(SYS_pread64, fd, static_cast<char*>(destination) + done, size - done, offset + done);
    if (result == -EINTR) continue;
    if (result <= 0) return result == 0 ? -EIO : static_cast<int>(result);
    done += static_cast<std::uint64_t>(result);
  }
  return 0;
}

inline int change_memory_file(int fd, int mode, std::uint64_t offset, std::uint64_t size) noexcept {
  long result;
  do {
    result = raw_syscall(SYS_fallocate, fd, mode | FALLOC_FL_KEEP_SIZE, offset, size);
  } while (result == -EINTR);
  return static_cast<int>(result);
}

// Zero-filled pages where there are none yet.
inline int fill_memory_file(int fd, std::uint64_t offset, std::uint64_t size) noexcept {
  return change_memory_file(fd, 0, offset, size);
}

// Frees pages, also from under their mappings.
inline int punch_memory_file(int fd, std::uint64_t offset, std::uint64_t size) noexcept {
  return change_memory_file(fd, FALLOC_FL_PUNCH_HOLE, offset, size);
}

// Bytes of memory that the file occupies.
inline std::uint64_t memory_file_in_use(int fd) noexcept {
  struct stat status {};
  raw_syscall(SYS_fstat, fd, &status);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

}  // namespace mirrorcl
