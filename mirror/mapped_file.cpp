// SPDX-License-Identifier: Apache-2.0
#include "mirror/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/raw_syscall.h"
#include "device/window.h"

namespace mirrorcl::mirror {
namespace {

// Where a file is mapped for a moment, to hear what the kernel calls it.
constexpr Range kProbe{window::kViews.start + 4 * kBlockSize, kPageSize};

struct DirectoryEntry {  // struct linux_dirent64
  std::uint64_t inode;
  std::int64_t offset;
  std::uint16_t length;
  std::uint8_t type;
  char name[1];
};

int open_flags(const MappingInfo& mapping) {
  // Not waiting for a lease or a FIFO.
  return (mapping.writable() ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
}

// Opening anything else than a regular file could have effects of its own.
bool is_regular(const char* path) noexcept {
  struct stat status {};
  return raw_syscall(SYS_newfstatat, AT_FDCWD, path, &status, 0) == 0 && S_ISREG(status.st_mode);
}

UniqueFd open_regular(const char* path, int flags) noexcept {
  if (!is_regular(path)) return {};
  const long fd = raw_syscall(SYS_openat, AT_FDCWD, path, flags);
  return UniqueFd(fd < 0 ? -1 : static_cast<int>(fd));
}

FileIdentity to_identity(const struct stat& status) {
  return {major(status.st_dev), minor(status.st_dev), status.st_ino};
}

// What stat() says of a file can differ from what the list of mappings says (btrfs, overlayfs).
bool shows_same_file(const AddressSpace& space, int fd, const FileIdentity& wanted) noexcept {
  const long mapped = raw_syscall(SYS_mmap, kProbe.start, kProbe.size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
  if (mapped != static_cast<long>(kProbe.start)) return false;
  const auto shown = space.query_from(kProbe.start);
  raw_syscall(SYS_mmap, kProbe.start, kProbe.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
              -1, 0);
  return shown && shown->range.start == kProbe.start && shown->file == wanted;
}

bool is_file_of(const AddressSpace& space, int fd, const MappingInfo& mapping) noexcept {
  struct stat status {};
  if (raw_syscall(SYS_fstat, fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
  return to_identity(status) == mapping.file ||
         (status.st_ino == mapping.file.inode && shows_same_file(space, fd, mapping.file));
}

UniqueFd open_by_range(const AddressSpace& space, const MappingInfo& mapping) noexcept {
  const auto whole = space.query_from(mapping.range.start);
  if (!whole) return {};
  char path[64];
  *fmt::format_to_n(path, sizeof path - 1, "/proc/self/map_files/{:x}-{:x}", whole->range.start, whole->range.end())
       .out = 0;
  UniqueFd fd = open_regular(path, open_flags(mapping));
  // Another mapping may have taken its place before it was opened.
  const auto now = space.query_from(mapping.range.start);
  return now && now->range.start == whole->range.start && now->file == mapping.file ? std::move(fd) : UniqueFd();
}

bool allows(int fd, const MappingInfo& mapping) noexcept {
  const long flags = raw_syscall(SYS_fcntl, fd, F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0) return false;
  return (flags & O_ACCMODE) == O_RDWR || (!mapping.writable() && (flags & O_ACCMODE) == O_RDONLY);
}

UniqueFd duplicate_open_descriptor(const AddressSpace& space, const MappingInfo& mapping) noexcept {
  const long folder = raw_syscall(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return {};
  UniqueFd folder_fd(static_cast<int>(folder));
  alignas(DirectoryEntry) char buffer[4096];
  for (long size; (size = raw_syscall(SYS_getdents64, folder, buffer, sizeof buffer)) > 0;) {
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const DirectoryEntry*>(buffer + at);
      at += entry->length;
      int number = 0;
      const char* digit = entry->name;
      for (; *digit >= '0' && *digit <= '9'; ++digit) number = 10 * number + (*digit - '0');
      if (*digit != 0 || digit == entry->name) continue;
      if (!allows(number, mapping) || !is_file_of(space, number, mapping)) continue;
      // The application may close it, and open another one of this number, at any time: look at ours.
      const long copy = raw_syscall(SYS_fcntl, number, F_DUPFD_CLOEXEC, 0);
      if (copy < 0) return {};
      UniqueFd fd(static_cast<int>(copy));
      if (allows(fd.get(), mapping) && is_file_of(space, fd.get(), mapping)) return fd;
    }
  }
  return {};
}

UniqueFd open_by_name(const AddressSpace& space, const MappingInfo& mapping) noexcept {
  char path[4096];
  if (!space.file_name(mapping.range.start, path)) return {};
  UniqueFd fd = open_regular(path, open_flags(mapping));
  return fd && is_file_of(space, fd.get(), mapping) ? std::move(fd) : UniqueFd();
}

}  // namespace

FileIdentity identity_of(int fd) noexcept {
  struct stat status {};
  return raw_syscall(SYS_fstat, fd, &status) == 0 ? to_identity(status) : FileIdentity{};
}

MappedFile open_mapped_file(const AddressSpace& space, const MappingInfo& mapping, unsigned ways) noexcept {
  MappedFile file{{}, 0, -EACCES};
  if ((ways & kByMapping) != 0) file.fd = open_by_range(space, mapping);
  if (!file.fd && (ways & kByDescriptor) != 0) file.fd = duplicate_open_descriptor(space, mapping);
  if (!file.fd && (ways & kByName) != 0) file.fd = open_by_name(space, mapping);
  if (!file.fd) return file;
  struct stat status {};
  file.error = static_cast<int>(raw_syscall(SYS_fstat, file.fd.get(), &status));
  file.size = static_cast<std::uint64_t>(status.st_size);
  return file;
}

}  // namespace mirrorcl::mirror
