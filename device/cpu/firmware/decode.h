// SPDX-License-Identifier: Apache-2.0
// Finds the address that a faulting x86-64 instruction meant to access, for the faults where the processor does not
// tell: a non-canonical address raises a general protection fault without one.
#pragma once

#include <cstdint>

namespace mirrorcl::firmware {

struct Operand {
  bool memory;  // the instruction has a memory operand, at `address`
  bool vector;  // it is an SSE or AVX instruction
  std::uint64_t address;
};

// `code`: the instruction. `registers`: the sixteen general registers in the order of their numbers (rax, rcx, rdx,
// rbx, rsp, rbp, rsi, rdi, r8 ...). Segment bases are taken as zero.
Operand decode_operand(const std::uint8_t* code, const std::uint64_t registers[16]) noexcept;

}  // namespace mirrorcl::firmware
