// SPDX-License-Identifier: Apache-2.0
// A compute unit: one thread that takes packets from the queues and runs their work-groups.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cpu/firmware/layout.h"
#include "device/cpu/work_group_view.h"
#include "device/packet.h"

namespace mirrorcl::firmware {

// PoCL 3.1's pocl_context for 64-bit devices (reference: include/pocl_context.h of its tag v3.1).
struct PoclContext {
  std::uint64_t num_groups[3];
  std::uint64_t global_offset[3];
  std::uint64_t local_size[3];
  std::uint8_t* printf_buffer;
  std::uint32_t* printf_buffer_position;
  std::uint32_t printf_buffer_capacity;
  std::uint32_t work_dim;
};

inline constexpr std::uint32_t kMaxArguments = 16384;

// Lies at the unit's FS base. Not shared with A.
struct Unit {
  void* self;  // musl's functions read %fs:0 for their thread structure, and find zeros in it
  std::byte musl_thread[device::kWorkGroupViewOffset - 8];
  device::WorkGroupView view;
  std::byte padding[UNIT_SAVED_STACK - device::kWorkGroupViewOffset - sizeof(device::WorkGroupView)];
  std::uint64_t saved_stack;  // where mirrorcl_run_group left the loop stack
  std::uint32_t running;      // not zero while a kernel has the thread
  std::uint32_t mxcsr;        // for the next work-group

  std::uint32_t index;
  std::uint32_t next_queue;  // where to look first: queues are served in turn
  device::UnitState* state;
  device::Packet* packet;        // what arguments, context and view are prepared for
  std::uint64_t packet_index;    // of `packet` in its queue
  device::FaultKind unrunnable;  // not kNone: the packet cannot be run, say for its local memory
  std::uint64_t total_groups;
  std::uint32_t printf_position;
  std::uint64_t group[3];      // the running work-group
  std::uint32_t changes_seen;  // of the address space, when this unit was last refused an access
  std::uint64_t sleeps;        // statistics for debuggers
  PoclContext context;
  void* arguments[kMaxArguments];       // what PoCL calls args
  void* local_pointers[kMaxArguments];  // arguments[i] points here for local memory
};
static_assert(offsetof(Unit, view) == device::kWorkGroupViewOffset);
static_assert(offsetof(Unit, saved_stack) == UNIT_SAVED_STACK);
static_assert(offsetof(Unit, running) == UNIT_RUNNING);
static_assert(offsetof(Unit, mxcsr) == UNIT_MXCSR);
static_assert(sizeof(Unit) <= kUnitSize);

inline Unit* unit_at(std::uint32_t index) noexcept {
  return reinterpret_cast<Unit*>(unit_space(index) + kUnitOffset);
}

// Whether the units run in the application's memory (the ATS device), not in an address space of their own.
extern bool shares_memory;
// This device's part of the control region.
extern device::DeviceControl device_control;

// unit.cpp
// CLOCK_MONOTONIC.
std::uint64_t now_ns() noexcept;

// control.cpp
// What the control thread does from then on.
[[noreturn]] void run_control() noexcept;
// Waits while the control thread is about to make `address` accessible again, for ten seconds at most; returns how many
// changes of the address space it has begun or finished until then. If none came since the last refusal, the next try
// of the access would be refused too.
std::uint32_t wait_for_changes(std::uint64_t address) noexcept;

// The unit's thread; never returns.
void run_unit(void* unit);

// fault.cpp
// Installs the handlers for the whole process, and the calling thread's signal stack and mask.
void install_fault_handlers() noexcept;
void enter_signal_stack(Unit* unit) noexcept;
// Describes the running work-group's end in the packet's signal, if it is the first to fail.
void record_failure(Unit* unit, device::FaultKind kind, std::uint64_t address, std::uint64_t instruction) noexcept;

// Leaves `text` (and `value` in hex) where A finds it, then ends the process.
[[noreturn]] void die(const char* text, std::uint64_t value = 0) noexcept;

// seccomp.cpp: from now on the calling thread may only make the calls that it needs, and only from the firmware's own
// code. Returns 0 or -errno.
long restrict_unit() noexcept;
long restrict_control() noexcept;

}  // namespace mirrorcl::firmware

extern "C" {
using KernelEntry = void (*)(void* args, void* context, std::uint64_t gx, std::uint64_t gy, std::uint64_t gz);
std::uint32_t mirrorcl_run_group(KernelEntry code, void* args, void* context, const std::uint64_t* group,
                                 void* stack_top);
void mirrorcl_group_aborted();
void mirrorcl_signal_return();
long mirrorcl_start_thread(unsigned long flags, void* stack_top, void* thread_id, void* fs_base, void (*entry)(void*));
extern std::uint8_t mirrorcl_has_avx;
}
