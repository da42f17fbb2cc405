// SPDX-License-Identifier: Apache-2.0
#include "base/memory_file.h"

#include <fmt/format.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "base/pass_descriptors.h"
#include "base/tmpfs_maker.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace mirrorcl {
namespace {

std::string describe(const TmpfsMaker::Step& step) {
  return fmt::format("{}: {}", step.name, step.error == 0 ? "killed" : strerrordesc_np(step.error));
}

// A file on a tmpfs of its own, or none and why.
HugePageFile make_file_on_own_tmpfs(const char* name) {
  HugePageFile made;
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    made.refusal = describe({"socketpair", errno});
    return made;
  }
  const UniqueFd socket(pair[0]);
  const UniqueFd its_socket(pair[1]);
  const std::string path = std::string("memfd:") + name;
  const std::string user_map = fmt::format("{0} {0} 1", geteuid());
  const std::string group_map = fmt::format("{0} {0} 1", getegid());
  TmpfsMaker maker{path.c_str(), user_map.c_str(), group_map.c_str(), its_socket.get()};
  auto child = run_in_child(run_tmpfs_maker, &maker);
  if (!child) {
    made.refusal = child.error().message;
    return made;
  }
  made.maker = std::move(*child);
  if (maker.sent) {
    char nothing = 0;
    int file = -1;
    (void)receive_with_descriptor(socket.get(), &nothing, 1, &file);
    made.fd.reset(file);
    if (file < 0) made.refusal = describe({"recvmsg", EMFILE});
    return made;
  }
  made.refusal = describe(maker.last);
  if (maker.without_namespaces.error != 0) {
    made.refusal = fmt::format("{}; in a user namespace: {}", describe(maker.without_namespaces), made.refusal);
  }
  return made;
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

Result<HugePageFile> create_huge_page_file(const char* name, std::uint64_t size) {
  if (auto checked = check_file_size_limit(size); !checked) return tl::unexpected<Error>(checked.error());
  HugePageFile file = make_file_on_own_tmpfs(name);
  if (file.fd) {
    if (ftruncate(file.fd.get(), static_cast<off_t>(size)) == 0) return file;
    file.refusal = fmt::format("ftruncate: {}", strerrordesc_np(errno));
  }
  auto plain = create_memory_file(name, size);
  if (!plain) return tl::unexpected<Error>(plain.error());
  file.fd.reset(*plain);
  return file;
}

}  // namespace mirrorcl
