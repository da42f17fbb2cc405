// SPDX-License-Identifier: Apache-2.0
// What happens when a kernel does something that the device refuses: the processor or the service thread raises a
// signal, and the handler, on its own stack, describes the failure and resumes the unit behind the work-group that
// caused it.
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "base/raw_syscall.h"
#include "device/cpu/firmware/decode.h"
#include "device/cpu/firmware/unit.h"
#include "device/cpu/startup.h"

namespace mirrorcl::firmware {
namespace {

using device::FaultKind;

// The kernel's own layout; libc's differs.
struct KernelSigaction {
  void (*handler)(int, siginfo_t*, void*);
  unsigned long flags;
  void (*restorer)();
  std::uint64_t mask;
};
constexpr unsigned long kSaRestorer = 0x04000000;

constexpr int kHandled[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, device::kAbortSignal};

struct Failure {
  FaultKind kind;
  std::uint64_t address;
};

bool canonical(std::uint64_t address) {
  return static_cast<std::int64_t>(address << 16) >> 16 == static_cast<std::int64_t>(address);
}

// General protection and stack-segment faults carry no address: find out what the instruction meant.
Failure explain_protection_fault(const greg_t* from) noexcept {
  const auto r = [from](int index) { return static_cast<std::uint64_t>(from[index]); };
  // Some processors fault where the jump leads, not at the jump: there is no instruction to read.
  if (!canonical(r(REG_RIP))) return {FaultKind::kInvalidAddress, r(REG_RIP)};
  const std::uint64_t registers[16] = {r(REG_RAX), r(REG_RCX), r(REG_RDX), r(REG_RBX), r(REG_RSP), r(REG_RBP),
                                       r(REG_RSI), r(REG_RDI), r(REG_R8),  r(REG_R9),  r(REG_R10), r(REG_R11),
                                       r(REG_R12), r(REG_R13), r(REG_R14), r(REG_R15)};
  Operand operand = decode_operand(reinterpret_cast<const std::uint8_t*>(r(REG_RIP)), registers);
  if (operand.memory && !canonical(operand.address)) return {FaultKind::kInvalidAddress, operand.address};
  if (operand.memory && operand.vector) return {FaultKind::kMisaligned, operand.address};
  for (std::uint64_t value : registers) {  // an indirect jump or gather
    if (!canonical(value)) return {FaultKind::kInvalidAddress, value};
  }
  return {FaultKind::kIllegalInstruction, r(REG_RIP)};  // privileged
}

Failure explain_access(Unit* unit, int code, std::uint64_t address, const greg_t* registers) noexcept {
  std::uint64_t guard = unit_space(unit->index) + kKernelGuardOffset;
  if (address >= guard && address < unit_space(unit->index) + kKernelStackOffset)
    return {FaultKind::kStackOverflow, address};
  // Of the processor's page-fault error code. A write to a page that is there meets a read-only one. In an address
  // space of our own the service thread judges, and what it does not see is a file that the application may only read,
  // whose pages come when they are first read.
  constexpr greg_t kPresent = 1;
  constexpr greg_t kWrite = 2;
  const bool file = !shares_memory && !window::kWindow.contains(address);
  const bool read_only =
      code == SEGV_ACCERR && (registers[REG_ERR] & kWrite) != 0 && (file || (registers[REG_ERR] & kPresent) != 0);
  return {read_only ? FaultKind::kReadOnly : FaultKind::kInvalidAddress, address};
}

Failure explain(Unit* unit, int number, const siginfo_t* info, const greg_t* registers) noexcept {
  auto instruction = static_cast<std::uint64_t>(registers[REG_RIP]);
  auto address = reinterpret_cast<std::uint64_t>(info->si_addr);
  switch (number) {
    case SIGSEGV:
      return info->si_code == SI_KERNEL ? explain_protection_fault(registers)
                                        : explain_access(unit, info->si_code, address, registers);
    case SIGBUS:
      if (info->si_code == SI_KERNEL) return explain_protection_fault(registers);
      if (info->si_code == BUS_ADRALN) return {FaultKind::kMisaligned, address};
      if (info->si_code != BUS_ADRERR) return {FaultKind::kUnknown, address};
      // The application's mapping of a file goes on behind its end; or device memory that could not be allocated.
      return {shares_memory ? FaultKind::kInvalidAddress : FaultKind::kOutOfMemory, address};
    case SIGFPE:
      return {
          info->si_code == FPE_INTDIV || info->si_code == FPE_INTOVF ? FaultKind::kIntegerDivide : FaultKind::kUnknown,
          instruction};
    case SIGILL: {
      // ud2 is what compilers make of __builtin_trap().
      const auto* code = reinterpret_cast<const std::uint8_t*>(instruction);
      return {code[0] == 0x0f && code[1] == 0x0b ? FaultKind::kTrap : FaultKind::kIllegalInstruction, instruction};
    }
    case SIGTRAP:
      return {FaultKind::kTrap, instruction};
    case SIGSYS:
      return {FaultKind::kForbiddenCall, instruction};
    default:
      return {FaultKind::kUnknown, instruction};
  }
}

// Whether the access was refused only because the address space was being changed: then it is made once more. At most
// one try too many for each change.
bool may_try_again(Unit* unit, const void* address) noexcept {
  const std::uint32_t changes = wait_for_changes(reinterpret_cast<std::uint64_t>(address));
  if (changes == unit->changes_seen) return false;
  unit->changes_seen = changes;
  return true;
}

void on_signal(int number, siginfo_t* info, void* frame) {
  auto* context = static_cast<ucontext_t*>(frame);
  greg_t* registers = context->uc_mcontext.gregs;
  // The kernel may have left any FS base; the signal stack, which it cannot choose, tells the unit.
  auto here = reinterpret_cast<std::uint64_t>(__builtin_frame_address(0));
  if (!window::kUnits.contains(here))
    die("fault in the control thread at", static_cast<std::uint64_t>(registers[REG_RIP]));
  Unit* unit = unit_at(static_cast<std::uint32_t>((here - window::kUnits.start) / window::kUnitSpace));

  Failure failure;
  if (number == device::kAbortSignal) {
    auto kind = static_cast<FaultKind>(unit->state->fault.exchange(0, std::memory_order_acq_rel));
    auto group = static_cast<std::uint32_t>(unit->state->groups_run.load(std::memory_order_relaxed));
    // A verdict on an access that has been settled in another way meanwhile.
    if (kind == FaultKind::kNone || unit->running == 0 ||
        unit->state->fault_group.load(std::memory_order_relaxed) != group) {
      return;
    }
    failure = {kind, unit->state->fault_address.load(std::memory_order_relaxed)};
  } else {
    if (unit->running == 0) die("fault outside of a kernel at", static_cast<std::uint64_t>(registers[REG_RIP]));
    if (number == SIGSEGV && info->si_code == SEGV_ACCERR && may_try_again(unit, info->si_addr)) return;
    failure = explain(unit, number, info, registers);
  }
  record_failure(unit, failure.kind, failure.address, static_cast<std::uint64_t>(registers[REG_RIP]));
  unit->running = 0;
  registers[REG_RIP] = static_cast<greg_t>(reinterpret_cast<std::uint64_t>(&mirrorcl_group_aborted));
  registers[REG_RSP] = static_cast<greg_t>(unit->saved_stack);
  registers[REG_EFL] = 0x202;  // interrupts on; direction, trap, alignment-check and nested-task flags off
}

}  // namespace

void install_fault_handlers() noexcept {
  // Everything else stays blocked: what is sent to the process (a terminal's signals, say) is meant for the
  // application.
  std::uint64_t blocked = ~std::uint64_t{0};
  for (int number : kHandled) blocked &= ~(std::uint64_t{1} << (number - 1));
  raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, nullptr, 8);
  KernelSigaction action{on_signal, SA_SIGINFO | SA_ONSTACK | kSaRestorer, mirrorcl_signal_return, ~std::uint64_t{0}};
  for (int number : kHandled) raw_syscall(SYS_rt_sigaction, number, &action, nullptr, 8);
}

void enter_signal_stack(Unit* unit) noexcept {
  stack_t stack{};
  stack.ss_sp = reinterpret_cast<void*>(unit_space(unit->index) + kSignalStackOffset);
  stack.ss_size = kSignalStackSize;
  raw_syscall(SYS_sigaltstack, &stack, nullptr);
}

[[noreturn]] void die(const char* text, std::uint64_t value) noexcept {
  char* words = device_control.last_words();
  std::uint32_t size = 0;
  while (text[size] != 0 && size < device::kLastWordsSize - 24) {
    words[size] = text[size];
    ++size;
  }
  words[size++] = ' ';
  words[size++] = '0';
  words[size++] = 'x';
  for (int shift = 60; shift >= 0; shift -= 4) words[size++] = "0123456789abcdef"[value >> shift & 15];
  words[size] = 0;
  for (;;) raw_syscall(SYS_exit_group, 70);
}

}  // namespace mirrorcl::firmware
