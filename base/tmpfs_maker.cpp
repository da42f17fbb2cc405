// SPDX-License-Identifier: Apache-2.0
#include "base/tmpfs_maker.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

#include <cstddef>

#include "base/pass_descriptors.h"
#include "base/raw_syscall.h"

namespace mirrorcl {
namespace {

template <typename... Args>
int step(TmpfsMaker& maker, const char* name, long number, Args... args) noexcept {
  maker.last = {name, 0};
  const long result = raw_syscall(number, args...);
  if (result < 0) maker.last.error = static_cast<int>(-result);
  return static_cast<int>(result);
}

bool make_file(TmpfsMaker& maker) noexcept {
  const int context = step(maker, "fsopen", SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
  const auto set = [&](const char* key, const char* value) {
    return step(maker, key, SYS_fsconfig, context, FSCONFIG_SET_STRING, key, value, 0) == 0;
  };
  // No limit of its own: whoever counts the process's memory counts this.
  if (context < 0 || !set("huge", "advise") || !set("size", "0")) return false;
  if (step(maker, "fsconfig", SYS_fsconfig, context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return false;
  constexpr unsigned kAttributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  const int mount = step(maker, "fsmount", SYS_fsmount, context, FSMOUNT_CLOEXEC, kAttributes);
  if (mount < 0) return false;
  constexpr int kNew = O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC;
  const int file = step(maker, "openat", SYS_openat, mount, maker.path, kNew, 0600);
  if (file < 0 || step(maker, "unlinkat", SYS_unlinkat, mount, maker.path, 0) != 0) return false;
  maker.last = {"sendmsg", 0};
  char nothing = 0;
  const long sent = send_with_descriptor(maker.socket, &nothing, 1, file);
  if (sent < 0) maker.last.error = static_cast<int>(-sent);
  maker.sent = sent == 1;
  return maker.sent;
}

bool write_about_self(TmpfsMaker& maker, const char* path, const char* text) noexcept {
  std::size_t size = 0;
  while (text[size] != 0) ++size;
  const int fd = step(maker, path, SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
  return fd >= 0 && step(maker, path, SYS_write, fd, text, size) == static_cast<int>(size);
}

bool enter_own_namespaces(TmpfsMaker& maker) noexcept {
  // Files belong to users that the namespace knows.
  return step(maker, "unshare", SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
         write_about_self(maker, "/proc/self/setgroups", "deny") &&
         write_about_self(maker, "/proc/self/uid_map", maker.user_map) &&
         write_about_self(maker, "/proc/self/gid_map", maker.group_map);
}

}  // namespace

int run_tmpfs_maker(void* argument) {
  auto& maker = *static_cast<TmpfsMaker*>(argument);
  if (make_file(maker) || maker.last.error != EPERM) return 0;
  maker.without_namespaces = maker.last;
  if (enter_own_namespaces(maker)) make_file(maker);
  return 0;
}

}  // namespace mirrorcl
