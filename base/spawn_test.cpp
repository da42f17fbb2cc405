// SPDX-License-Identifier: Apache-2.0
#include "base/spawn.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <string>

#include "base/futex.h"
#include "base/raw_syscall.h"
#include "base/test_kernel.h"

namespace mirrorcl {
namespace {

std::string read_all(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<std::size_t>(got));
  return text;
}

struct Pipe {
  UniqueFd out, in;
  Pipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    out.reset(ends[0]);
    in.reset(ends[1]);
  }
};

// Before Linux 6.15 nobody knows how a process ended once init has reaped it.
void expect_killed(int pidfd) {
  const std::string how = describe_exit(pidfd, 5000);
  if (how == "ended" && !linux_is_at_least(6, 15)) return;
  EXPECT_EQ(how.substr(0, 17), "killed by SIGKILL");
}

TEST(spawn, passes_descriptors_at_fixed_numbers_and_closes_every_other) {
  Pipe pipe;
  int leaked = dup(pipe.out.get());  // not close-on-exec, as an application's descriptors may be
  std::array<int, 3> fds{-1, pipe.in.get(), -1};
  auto process = spawn_detached("/bin/sh", {"sh", "-c", "echo $0; ls -1 /proc/self/fd | tr '\\n' ' '", "hello"}, fds);
  ASSERT_TRUE(process.has_value()) << process.error().message;
  EXPECT_GT(process->pid, 0);
  pipe.in.reset();
  std::string text = read_all(pipe.out.get());
  EXPECT_EQ(text, "hello\n0 1 2 3 ");  // 3: the folder that ls reads
  close(leaked);
}

TEST(spawn, leaves_nothing_for_the_applications_wait) {
  std::array<int, 3> fds{-1, -1, -1};
  auto process = spawn_detached("/bin/true", {"true"}, fds);
  ASSERT_TRUE(process.has_value()) << process.error().message;
  describe_exit(process->pidfd.get(), 5000);
  errno = 0;
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  errno = 0;
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG | __WALL), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(spawn, starts_with_signals_unblocked_although_the_caller_blocks_them) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  Pipe pipe;
  std::array<int, 3> fds{-1, pipe.in.get(), -1};
  auto process = spawn_detached("/bin/grep", {"grep", "SigBlk", "/proc/self/status"}, fds);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(process.has_value()) << process.error().message;
  pipe.in.reset();
  EXPECT_EQ(read_all(pipe.out.get()), "SigBlk:\t0000000000000000\n");
}

TEST(spawn, names_the_failed_call_and_the_file) {
  std::array<int, 3> fds{-1, -1, -1};
  auto process = spawn_detached("/nonexistent/mirrorcl", {"mirrorcl"}, fds);
  ASSERT_FALSE(process.has_value());
  EXPECT_EQ(process.error().code, ErrorCode::kSystem);
  EXPECT_NE(process.error().message.find("/nonexistent/mirrorcl: execve"), std::string::npos)
      << process.error().message;
  EXPECT_NE(process.error().message.find("No such file"), std::string::npos) << process.error().message;
}

// What a process in this one's memory finds, and leaves here.
struct SharedNotes {
  FutexWord done{0};
  std::atomic<std::uint64_t> blocked{0};
  std::atomic<std::uint64_t> segv_handler{1};
  std::atomic<int> descriptors{0};
};

// Raw calls only, and no marks of a sanitizer: the thread-local storage is another thread's.
__attribute__((no_sanitize("address", "thread"))) void take_notes(std::uint64_t argument) {
  auto* notes = reinterpret_cast<SharedNotes*>(argument);
  struct {
    std::uint64_t handler, flags, restorer, mask;
  } action{};
  raw_syscall(SYS_rt_sigaction, SIGSEGV, nullptr, &action, 8);
  notes->segv_handler.store(action.handler);
  std::uint64_t blocked = 0;
  raw_syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &blocked, 8);
  notes->blocked.store(blocked);
  for (int fd = 0; fd < 1024; ++fd) {
    if (raw_syscall(SYS_fcntl, fd, F_GETFD) >= 0) notes->descriptors.fetch_add(1);
  }
  notes->done.store(1);
  futex_wake(&notes->done, 1);
  for (;;) raw_syscall(SYS_pause);
}

TEST(spawn, a_process_in_the_same_memory_has_its_own_signals_and_descriptors_and_dies_alone) {
  struct sigaction handler {};
  struct sigaction before {};
  handler.sa_handler = [](int) {};
  sigaction(SIGSEGV, &handler, &before);
  alignas(64) static char stack[64 * 1024];
  static SharedNotes notes;
  std::array<int, 2> fds{-1, -1};
  auto process = spawn_sharing_memory(take_notes, reinterpret_cast<std::uint64_t>(&notes), stack + sizeof stack, fds);
  ASSERT_TRUE(process.has_value()) << process.error().message;
  while (notes.done.load() == 0) futex_wait(&notes.done, 0, 1'000'000'000);
  EXPECT_EQ(notes.segv_handler.load(), 0u) << "SIGSEGV is not at its default";
  EXPECT_EQ(notes.descriptors.load(), 2);
  // But what cannot be blocked, and libc's own two.
  constexpr std::uint64_t kNever = 1U << (SIGKILL - 1) | 1U << (SIGSTOP - 1) | std::uint64_t{3} << 31;
  EXPECT_EQ(notes.blocked.load() | kNever, ~std::uint64_t{0});
  errno = 0;
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG | __WALL), -1);
  EXPECT_EQ(errno, ECHILD);
  ASSERT_EQ(kill(process->pid, SIGKILL), 0);
  expect_killed(process->pidfd.get());
  sigaction(SIGSEGV, &before, nullptr);
}

struct ChildNotes {
  int process = 0;
  int descriptor = -1;
};

TEST(run_in_child, leaves_what_it_did_to_memory_and_nothing_else) {
  sigset_t child_signal, pending, before;
  sigemptyset(&child_signal);
  sigaddset(&child_signal, SIGCHLD);
  pthread_sigmask(SIG_BLOCK, &child_signal, &before);
  ChildNotes notes;
  const auto folder = std::filesystem::current_path();
  {
    const auto run = run_in_child(
        [](void* argument) {
          auto* its = static_cast<ChildNotes*>(argument);
          its->process = static_cast<int>(raw_syscall(SYS_getpid));
          its->descriptor = static_cast<int>(raw_syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC));
          raw_syscall(SYS_chdir, "/proc");
          return 0;
        },
        &notes);
    ASSERT_TRUE(run) << run.error().message;
    EXPECT_GT(notes.process, 0);
    EXPECT_NE(notes.process, getpid());
    errno = 0;
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "while it ends";
    EXPECT_EQ(errno, ECHILD);
  }
  EXPECT_GE(notes.descriptor, 0);
  errno = 0;
  EXPECT_TRUE(fcntl(notes.descriptor, F_GETFD) == -1 && errno == EBADF);
  EXPECT_EQ(std::filesystem::current_path(), folder);
  errno = 0;
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG | __WALL), -1);
  EXPECT_EQ(errno, ECHILD);
  sigpending(&pending);
  EXPECT_EQ(sigismember(&pending, SIGCHLD), 0);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST(spawn, tells_how_a_process_ended) {
  std::array<int, 3> fds{-1, -1, -1};
  auto process = spawn_detached("/bin/sleep", {"sleep", "100"}, fds);
  ASSERT_TRUE(process.has_value()) << process.error().message;
  ASSERT_EQ(kill(process->pid, SIGKILL), 0);
  expect_killed(process->pidfd.get());
}

}  // namespace
}  // namespace mirrorcl
