// SPDX-License-Identifier: Apache-2.0
// The system-call filters. A call is let through only if its instruction lies in the firmware region and its number is
// on the thread's list, so that no instruction of a kernel, whatever it puts in its registers, can make one: it raises
// SIGSYS, which ends the work-group.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "base/raw_syscall.h"
#include "device/cpu/firmware/unit.h"

namespace mirrorcl::firmware {
namespace {

constexpr std::uint32_t kRegionHigh = static_cast<std::uint32_t>(window::kFirmware.start >> 32);
static_assert(static_cast<std::uint32_t>(window::kFirmware.start) == 0);

constexpr std::uint32_t field(std::size_t offset) {
  return static_cast<std::uint32_t>(offset);
}

template <std::size_t N>
long install(const int (&allowed)[N]) noexcept {
  constexpr std::uint32_t kInstruction = field(offsetof(seccomp_data, instruction_pointer));
  sock_filter program[8 + 2 * N + 1];
  std::size_t size = 0;
  const auto add = [&](int code, std::uint32_t k, int jump_true = 0, int jump_false = 0) {
    program[size++] = {static_cast<std::uint16_t>(code), static_cast<std::uint8_t>(jump_true),
                       static_cast<std::uint8_t>(jump_false), k};
  };
  constexpr int kLoad = BPF_LD | BPF_W | BPF_ABS;
  constexpr int kEqual = BPF_JMP | BPF_JEQ | BPF_K;
  const int refuse = static_cast<int>(8 + 2 * N);  // index of the last instruction
  const auto to_refusal = [&] { return refuse - static_cast<int>(size) - 1; };
  add(kLoad, field(offsetof(seccomp_data, arch)));
  add(kEqual, AUDIT_ARCH_X86_64, 0, to_refusal());
  add(kLoad, kInstruction + 4);
  add(kEqual, kRegionHigh, 0, to_refusal());
  add(kLoad, kInstruction);
  add(BPF_JMP | BPF_JGE | BPF_K, static_cast<std::uint32_t>(window::kFirmware.size), to_refusal(), 0);
  add(kLoad, field(offsetof(seccomp_data, nr)));
  add(BPF_JMP | BPF_JA, 0);
  for (int number : allowed) {
    add(kEqual, static_cast<std::uint32_t>(number), 0, 1);
    add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  }
  add(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
  const sock_fprog description{static_cast<unsigned short>(size), program};
  return raw_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &description);
}

}  // namespace

long restrict_unit() noexcept {
  // exit_group: a firmware that finds itself broken ends the process (die()).
  constexpr int kCalls[] = {SYS_futex,       SYS_clock_gettime,   SYS_rt_sigreturn,
                            SYS_sched_yield, SYS_restart_syscall, SYS_exit_group};
  return install(kCalls);
}

// Of the calls that change the address space, only those that map a descriptor which A has sent, or change a
// protection. A kernel that gained control of this thread could map no file that A has not mapped for itself, with no
// more access than A has, and no descriptor to anything else is open here but A's pidfd and the device's own
// userfaultfd.
long restrict_control() noexcept {
  constexpr int kEnd[] = {SYS_poll, SYS_rt_sigreturn, SYS_restart_syscall, SYS_exit_group};
  constexpr int kMapping[] = {SYS_poll,  SYS_recvmsg,      SYS_sendto,          SYS_mmap,      SYS_mprotect,
                              SYS_close, SYS_rt_sigreturn, SYS_restart_syscall, SYS_exit_group};
  return shares_memory ? install(kEnd) : install(kMapping);
}

}  // namespace mirrorcl::firmware
