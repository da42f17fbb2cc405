// SPDX-License-Identifier: Apache-2.0
#include "base/spawn_children.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>

#include <cerrno>

#include "base/raw_syscall.h"

namespace mirrorcl {
namespace {

// The kernel's own layout of struct sigaction, which differs from libc's.
struct KernelSigaction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  std::uint64_t mask;
};

int fail_child(SpawnContext* context, const char* call, long result) {
  context->failed_call = call;
  context->error = static_cast<int>(-result);
  raw_syscall(SYS_exit, 127);
  return 127;
}

// Makes context->fds the calling process's descriptors 0, 1, ... and closes all others. It has its own table.
int arrange_descriptors(SpawnContext* context) {
  // Above every target number first, so that no dup3 overwrites a source still needed.
  int sources[16];
  for (int i = 0; i < context->fd_count; ++i) {
    long source = context->fds[i];
    if (source < 0) source = raw_syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC);
    if (source < 0) return fail_child(context, "open /dev/null", source);
    long high = raw_syscall(SYS_fcntl, source, F_DUPFD_CLOEXEC, 64);
    if (high < 0) return fail_child(context, "fcntl(F_DUPFD_CLOEXEC)", high);
    sources[i] = static_cast<int>(high);
  }
  for (int i = 0; i < context->fd_count; ++i) {
    long result = raw_syscall(SYS_dup3, sources[i], i, 0);
    if (result < 0) return fail_child(context, "dup3", result);
  }
  long result = raw_syscall(SYS_close_range, context->fd_count, ~0U, 0);
  return result < 0 ? fail_child(context, "close_range", result) : 0;
}

int become_process(void* argument) {
  auto* context = static_cast<SpawnContext*>(argument);
  arrange_descriptors(context);
  // Defaults before unblocking: the application's handlers must not run here.
  KernelSigaction fallback{};
  for (int number = 1; number <= 64; ++number) raw_syscall(SYS_rt_sigaction, number, &fallback, nullptr, 8);
  if (context->entry != nullptr) {
    const SharingEntry entry = context->entry;
    const std::uint64_t entry_argument = context->entry_argument;
    context->entered.store(1, std::memory_order_release);
    futex_wake(&context->entered, 1);
    entry(entry_argument);
    raw_syscall(SYS_exit_group, 127);
  }
  std::uint64_t none = 0;
  raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, 8);
  return fail_child(context, "execve", raw_syscall(SYS_execve, context->path, context->argv, context->environment));
}

// A process that execs is waited for by CLONE_VFORK; one that stays in this memory would hold that up for ever.
void wait_until_entered(SpawnContext* context) {
  constexpr std::int64_t kLookAfterNs = 10'000'000;
  while (context->entered.load(std::memory_order_acquire) == 0) {
    futex_wait(&context->entered, 0, kLookAfterNs);
    pollfd ended{context->pidfd, POLLIN, 0};
    if (raw_syscall(SYS_poll, &ended, 1, 0) > 0) return;
  }
}

}  // namespace

int run_spawn_intermediate(void* argument) {
  auto* context = static_cast<SpawnContext*>(argument);
  // The pidfd lands in the caller's descriptor table, which this child shares; it is close-on-exec by birth.
  const int flags = CLONE_VM | CLONE_PIDFD | (context->entry == nullptr ? CLONE_VFORK : 0);
  int result = __clone(become_process, context->process_stack, flags, argument, &context->pidfd, nullptr, nullptr);
  if (result < 0) return fail_child(context, "clone", -errno);
  context->pid = result;
  if (context->entry != nullptr) wait_until_entered(context);
  return 0;
}

}  // namespace mirrorcl
