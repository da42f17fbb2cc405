// SPDX-License-Identifier: Apache-2.0
#include "base/memory_file.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>

#include "base/unique_fd.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace mirrorcl {
namespace {

// An empty file on a tmpfs that nobody else sees, which ends with the file. In /proc it looks like a memfd. Negative: not
// permitted.
int open_on_own_tmpfs(const char* name) {
  const UniqueFd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context) return -1;
  const auto set = [&](const char* key, const char* value) {
    return fsconfig(context.get(), FSCONFIG_SET_STRING, key, value, 0) == 0;
  };
  // No limit of its own: whoever counts the process's memory counts this.
  if (!set("huge", "advise") || !set("size", "0")) return -1;
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return -1;
  constexpr unsigned kAttributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  const UniqueFd mount(fsmount(context.get(), FSMOUNT_CLOEXEC, kAttributes));
  if (!mount) return -1;
  const std::string path = std::string("memfd:") + name;
  UniqueFd file(openat(mount.get(), path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
  if (!file || unlinkat(mount.get(), path.c_str(), 0) != 0) return -1;
  return file.release();
}

Result<void> check_file_size_limit(std::uint64_t size) {
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
  return {};
}

}  // namespace

Result<int> create_memory_file(const char* name, std::uint64_t size) {
  if (auto checked = check_file_size_limit(size); !checked) return tl::unexpected<Error>(checked.error());
  int created = memfd_create(name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);
  if (created < 0 && errno == EINVAL) created = memfd_create(name, MFD_CLOEXEC);  // before Linux 6.3
  if (created < 0) return fail_errno("memfd_create", errno);
  UniqueFd fd(created);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return fail_errno("ftruncate of a memory file", errno);
  return fd.release();
}

Result<int> create_huge_page_file(const char* name, std::uint64_t size) {
  if (auto checked = check_file_size_limit(size); !checked) return tl::unexpected<Error>(checked.error());
  UniqueFd fd(open_on_own_tmpfs(name));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return create_memory_file(name, size);
  return fd.release();
}

}  // namespace mirrorcl
