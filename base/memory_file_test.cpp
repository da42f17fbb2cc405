// SPDX-License-Identifier: Apache-2.0
#include "base/memory_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>
#include <utility>

#include "base/test_kernel.h"
#include "base/test_users.h"

namespace mirrorcl {
namespace {

constexpr std::uint64_t kSize = std::uint64_t{1} << 40;

TEST(MemoryFile, ForHugePagesIsAMemoryFileLikeAnyOther) {
  auto file = create_huge_page_file("mirrorcl-test", kSize);
  ASSERT_TRUE(file) << file.error().message;
  const UniqueFd fd = std::move(file->fd);
  char name[64] = {};
  ASSERT_GT(readlink(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), name, sizeof name - 1), 0);
  EXPECT_STREQ(name, "/memfd:mirrorcl-test (deleted)");
  EXPECT_EQ(lseek(fd.get(), 0, SEEK_END), static_cast<off_t>(kSize));
  EXPECT_NE(fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  const std::uint64_t value = 5;
  std::uint64_t read = 0;
  EXPECT_EQ(write_memory_file(fd.get(), kSize / 2, &value, sizeof value), 0);
  EXPECT_EQ(memory_file_in_use(fd.get()), 4096U);
  EXPECT_EQ(read_memory_file(fd.get(), kSize / 2, &read, sizeof read), 0);
  EXPECT_EQ(read, value);
  EXPECT_EQ(punch_memory_file(fd.get(), kSize / 2, 4096), 0);
  EXPECT_EQ(memory_file_in_use(fd.get()), 0U);
}

// --- ordinary users

// What the making of a file must leave as it was.
struct ProcessState {
  std::string user_namespace = std::filesystem::read_symlink("/proc/self/ns/user").string();
  std::string mount_namespace = std::filesystem::read_symlink("/proc/self/ns/mnt").string();
  uid_t user = geteuid();
  int dumpable = prctl(PR_GET_DUMPABLE);
  std::ptrdiff_t descriptors = std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  bool operator==(const ProcessState&) const = default;
};

TEST(MemoryFile, OrdinaryUsersHaveHugePagesToo) {
  const std::string text = as_ordinary_user([]() -> std::string {
    const std::jthread other([](const std::stop_token& stop) {
      while (!stop.stop_requested()) usleep(1000);
    });
    auto file = create_huge_page_file("mirrorcl-test", kSize);
    if (!file) return file.error().message;
    if (!file->refusal.empty()) return "refused: " + file->refusal;
    return can_have_huge_page(file->fd.get()) ? "huge" : "small";
  });
  if (text.starts_with("refused")) GTEST_SKIP() << text;
  EXPECT_EQ(text, "huge");
}

TEST(MemoryFile, OrdinaryUsersProcessesStayAsTheyAre) {
  const std::string text = as_ordinary_user([]() -> std::string {
    sigset_t child_signal, pending;
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_signal, nullptr);
    const ProcessState before;
    if (!create_huge_page_file("mirrorcl-test", kSize)) return "no file";
    if (!(ProcessState() == before)) return "it is another";
    if (waitpid(-1, nullptr, WNOHANG | __WALL) != -1 || errno != ECHILD) return "a child is left";
    sigpending(&pending);
    return sigismember(&pending, SIGCHLD) != 0 ? "SIGCHLD has come" : "as it was";
  });
  EXPECT_EQ(text, "as it was");
}

// Without namespaces of its own an ordinary user has a file like any other.
std::string refusal_of_a_file_that_works() {
  auto file = create_huge_page_file("mirrorcl-test", kSize);
  if (!file) return "no file: " + file.error().message;
  const int value = 5;
  if (write_memory_file(file->fd.get(), kSize - 4096, &value, sizeof value) != 0) return "not written";
  return file->refusal;
}

// From now on unshare() does what `action`, one of SECCOMP_RET_, says.
bool filter_unshare(std::uint32_t action) {
  sock_filter program[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 0, 1), BPF_STMT(BPF_RET | BPF_K, action),
                           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog description{static_cast<unsigned short>(std::size(program)), program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &description, 0, 0) == 0;
}

constexpr const char* kNoPrivilege = "fsopen: Operation not permitted; in a user namespace: ";

TEST(MemoryFile, SaysThatThereAreNoMoreUserNamespaces) {
  const std::string refusal = as_ordinary_user([]() -> std::string {
    if (!filter_unshare(SECCOMP_RET_ERRNO | ENOSPC)) return "no filter";
    return refusal_of_a_file_that_works();
  });
  EXPECT_EQ(refusal, std::string(kNoPrivilege) + "unshare: No space left on device");
}

TEST(MemoryFile, SurvivesThatAUserNamespaceIsDeadlyToAsk) {
  const std::string refusal = as_ordinary_user([]() -> std::string {
    if (!filter_unshare(SECCOMP_RET_KILL_PROCESS)) return "no filter";
    return refusal_of_a_file_that_works();
  });
  EXPECT_EQ(refusal, std::string(kNoPrivilege) + "unshare: killed");
}

TEST(MemoryFile, SaysThatThereAreNoMoreProcesses) {
  const std::string refusal = as_ordinary_user([]() -> std::string {
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_NPROC, &none) != 0) return "setrlimit";
    return refusal_of_a_file_that_works();
  });
  EXPECT_EQ(refusal, "clone: Resource temporarily unavailable");
}

// As programs are whose file has rights of its own.
TEST(MemoryFile, SaysThatTheProcessMayNotTellOfItself) {
  const std::string refusal = as_ordinary_user([]() -> std::string {
    prctl(PR_SET_DUMPABLE, 0);
    return refusal_of_a_file_that_works();
  });
  if (refusal.find("unshare") != std::string::npos) GTEST_SKIP() << refusal;
  EXPECT_EQ(refusal, std::string(kNoPrivilege) + "/proc/self/setgroups: Permission denied");
}

}  // namespace
}  // namespace mirrorcl
