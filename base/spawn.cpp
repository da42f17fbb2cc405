// SPDX-License-Identifier: Apache-2.0
#include "base/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>

#include "base/raw_syscall.h"
#include "base/spawn_children.h"

namespace mirrorcl {
namespace {

constexpr std::size_t kChildStack = 32 * 1024;
constexpr int kWaitPidfd = 3;  // P_PIDFD

// Runs `function(argument)` on `stack` (its top) in a child that shares memory, and what `flags` say.
Result<EndingChild> run_in_child(int (*function)(void*), void* argument, char* stack, int flags) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int saved_errno = errno;
  int pidfd = -1;
  // No exit signal: only __WALL and __WCLONE waits see this child.
  flags |= CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
  int child = __clone(function, stack, flags, argument, &pidfd, nullptr, nullptr);
  int clone_errno = errno;
  errno = saved_errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (child < 0) return fail_errno("clone", clone_errno);
  return EndingChild(UniqueFd(pidfd));
}

// Starts the process of `context` through an intermediate that runs on `stack` (its top).
Result<SpawnedProcess> spawn(SpawnContext* context, char* stack) {
  // Its descriptors are the caller's: the process's pidfd is to lie there.
  auto run = run_in_child(run_spawn_intermediate, context, stack, CLONE_FILES);
  if (!run) return tl::unexpected<Error>(run.error());
  SpawnedProcess process;
  process.pid = context->pid;
  process.pidfd.reset(context->pidfd);
  if (context->error != 0) {
    const char* what = context->path != nullptr ? context->path : "a process that shares this one's memory";
    return fail_errno(fmt::format("{}: {}", what, context->failed_call), context->error);
  }
  return process;
}

Result<Mapping> map_stacks(std::size_t size) {
  void* stacks = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stacks == MAP_FAILED) return fail_errno("mmap of a child's stack", errno);
  return Mapping(stacks, size);
}

std::string field_of(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) == 0) return line.substr(key.size());
  }
  return {};
}

// Until init reaps it: the last field of /proc/PID/stat.
bool exit_status_of_zombie(int pidfd, int* status) {
  std::string pid = field_of("/proc/self/fdinfo/" + std::to_string(pidfd), "Pid:\t");
  if (pid.empty() || pid == "-1") return false;
  std::ifstream file("/proc/" + pid + "/stat");
  std::string line;
  if (!std::getline(file, line)) return false;
  std::size_t name_end = line.rfind(") ");  // the name before it may hold anything
  std::size_t last = line.rfind(' ');
  if (name_end == std::string::npos || line[name_end + 2] != 'Z') return false;
  *status = std::atoi(line.c_str() + last);
  return true;
}

// Afterwards: the pidfd itself, from Linux 6.15.
bool exit_status_of_reaped(int pidfd, int* status) {
  struct PidfdInfo {  // the first 64 bytes of struct pidfd_info, which Debian 12's headers lack
    std::uint64_t mask;
    std::uint64_t cgroup_id;
    std::uint32_t pid_tgid_ppid[3];
    std::uint32_t user_and_group_ids[8];
    std::int32_t exit_code;
  };
  static_assert(sizeof(PidfdInfo) == 64);
  constexpr std::uint64_t kExitStatus = 1U << 3;
  PidfdInfo info{};
  info.mask = kExitStatus;
  if (ioctl(pidfd, _IOWR(0xFF, 11, PidfdInfo), &info) < 0 || (info.mask & kExitStatus) == 0) return false;
  *status = info.exit_code;
  return true;
}

}  // namespace

Result<SpawnedProcess> spawn_detached(const std::string& path, const std::vector<std::string>& arguments,
                                      std::span<const int> fds) {
  if (fds.size() > 16) return fail(ErrorCode::kInvalidArgument, "more than 16 descriptors to pass");
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  auto stacks = map_stacks(2 * kChildStack);
  if (!stacks) return tl::unexpected<Error>(stacks.error());
  auto* bottom = static_cast<char*>(stacks->address());
  SpawnContext context{};
  context.path = path.c_str();
  context.argv = argv.data();
  context.environment = environ;
  context.fds = fds.data();
  context.fd_count = static_cast<int>(fds.size());
  context.process_stack = bottom + 2 * kChildStack;
  return spawn(&context, bottom + kChildStack);
}

Result<SpawnedProcess> spawn_sharing_memory(SharingEntry entry, std::uint64_t argument, void* stack_top,
                                            std::span<const int> fds) {
  if (fds.size() > 16) return fail(ErrorCode::kInvalidArgument, "more than 16 descriptors to pass");
  auto stack = map_stacks(kChildStack);
  if (!stack) return tl::unexpected<Error>(stack.error());
  SpawnContext context{};
  context.entry = entry;
  context.entry_argument = argument;
  context.fds = fds.data();
  context.fd_count = static_cast<int>(fds.size());
  context.process_stack = static_cast<char*>(stack_top);
  return spawn(&context, static_cast<char*>(stack->address()) + kChildStack);
}

EndingChild::~EndingChild() {
  if (!pidfd_) return;
  siginfo_t info;
  // ECHILD: a thread of the application has reaped it with a __WALL wait of its own.
  while (raw_syscall(SYS_waitid, kWaitPidfd, pidfd_.get(), &info, WEXITED | __WALL, nullptr) == -EINTR) {
  }
}

Result<EndingChild> run_in_child(int (*function)(void*), void* argument) {
  auto stack = map_stacks(kChildStack);
  if (!stack) return tl::unexpected<Error>(stack.error());
  return run_in_child(function, argument, static_cast<char*>(stack->address()) + kChildStack, 0);
}

std::string describe_exit(int pidfd, int timeout_ms) {
  pollfd watched{pidfd, POLLIN, 0};
  while (poll(&watched, 1, timeout_ms) < 0 && errno == EINTR) {
  }
  for (int attempt = 0; attempt < 50; ++attempt) {
    int status = 0;
    if (exit_status_of_zombie(pidfd, &status) || exit_status_of_reaped(pidfd, &status)) {
      if (WIFEXITED(status)) return fmt::format("exited with status {}", WEXITSTATUS(status));
      if (const char* name = sigabbrev_np(WTERMSIG(status))) return fmt::format("killed by SIG{}", name);
      return fmt::format("killed by signal {}", WTERMSIG(status));
    }
    poll(nullptr, 0, 1);
  }
  return "ended";
}

}  // namespace mirrorcl
