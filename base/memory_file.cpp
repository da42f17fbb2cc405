// SPDX-License-Identifier: Apache-2.0
#include "base/memory_file.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/unique_fd.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace mirrorcl {

Result<int> create_memory_file(const char* name, std::uint64_t size) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < size) {
    // Going on would raise SIGXFSZ, which ends the process.
    return fail(
        ErrorCode::kNotSupported,
        fmt::format(
            "the file-size limit of this process ({} bytes, ulimit -f) forbids the sparse memory file of {} bytes "
            "that MirrorCL needs; it must be unlimited",
            limit.rlim_cur, size));
  }
  int created = memfd_create(name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);
  if (created < 0 && errno == EINVAL) created = memfd_create(name, MFD_CLOEXEC);  // before Linux 6.3
  if (created < 0) return fail_errno("memfd_create", errno);
  UniqueFd fd(created);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return fail_errno("ftruncate of a memory file", errno);
  return fd.release();
}

}  // namespace mirrorcl
