// SPDX-License-Identifier: Apache-2.0
// Work-group functions for the tests, position-independent and without calls or constants elsewhere, so that their
// bytes can be copied into the device's code space as they are. The section "kernels" holds them all.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mirrorcl::device {

// PoCL's context as a kernel sees it.
struct TestContext {
  std::uint64_t num_groups[3];
  std::uint64_t global_offset[3];
  std::uint64_t local_size[3];
  std::uint8_t* printf_buffer;
  std::uint32_t* printf_position;
  std::uint32_t printf_capacity;
  std::uint32_t work_dim;
};

// An access of kernel_accesses, naturally aligned.
struct TestAccess {
  enum Kind : std::uint32_t { kRead, kWrite, kAdd };
  std::uint32_t kind;
  std::uint32_t size;  // bytes: 1, 2, 4 or 8
  std::uint64_t address;
  std::uint64_t value;  // in: what is written or added; out: what a read or an addition found
};

using TestKernel = void(void** args, TestContext* context, std::uint64_t gx, std::uint64_t gy, std::uint64_t gz);

extern "C" {
TestKernel kernel_empty;         // ()
TestKernel kernel_count_items;   // (u32* per_item): adds 1 at the item's linear global id, offsets taken off
TestKernel kernel_append;        // (u64* log, u64 value): log[++log[0]] = value
TestKernel kernel_use_local;     // (u64* out, local, u64 factor, local): adds up through both local arrays
TestKernel kernel_print;         // (): "group X\n" for X < 10
TestKernel kernel_read;          // (u64 address, u64* out)
TestKernel kernel_write;         // (u64 address, u64 value)
TestKernel kernel_divide;        // (u64 dividend, u64 divisor, u64* out)
TestKernel kernel_trap;          // ud2
TestKernel kernel_breakpoint;    // int3
TestKernel kernel_illegal;       // an undefined opcode
TestKernel kernel_privileged;    // hlt
TestKernel kernel_system_call;   // (u64 number)
TestKernel kernel_recurse;       // until the stack ends
TestKernel kernel_misaligned;    // (u64 address): an aligned vector load
TestKernel kernel_jump;          // (u64 address)
TestKernel kernel_spin;          // (u32* flag): until *flag != 0
TestKernel kernel_spoil_state;   // leaves the direction flag, MXCSR and x87 in disorder
TestKernel kernel_report_state;  // (u64* out): direction flag, MXCSR, x87 control and tag
TestKernel kernel_fail_group;    // (u64 group, u32* count): traps in one group, counts in the others
TestKernel kernel_view;          // (u64* out): the group's WorkGroupView, 19 words at 19 * group
TestKernel kernel_accesses;      // (TestAccess* list, u64 count, u64* done): *done grows with each access made
TestKernel kernel_sum;           // (u64* data, u64 count, u64* out): reads it all
}

}  // namespace mirrorcl::device
