// SPDX-License-Identifier: Apache-2.0
// Where things lie in a compute unit's space, and the few offsets that assembly needs. Everything not named here is
// unmapped: a guard that turns a stack overflow or a wild index into a fault.
//
//   offset       size       what
//   0            1 MiB      guard
//   1 MiB        1 MiB      struct Unit (the FS base), argument array
//   2 MiB        64 KiB     loop stack: the unit's own code
//   2.5 MiB      128 KiB    signal stack
//   4 MiB        1 MiB      text that the running work-group has printed
//   5 MiB        59 MiB     guard: where a kernel's stack overflows to
//   64 MiB       176 MiB    kernel stack (less 64 KiB of guard at its end)
//   240 MiB      16 MiB     local memory
#pragma once

// Offsets from the FS base, for entry.S.
#define UNIT_SAVED_STACK 0x400
#define UNIT_RUNNING 0x408
#define UNIT_MXCSR 0x40c

#ifndef __ASSEMBLER__
#include <cstdint>

#include "device/window.h"

namespace mirrorcl::firmware {

inline constexpr std::uint64_t kUnitOffset = 1 * window::kMiB;
inline constexpr std::uint64_t kUnitSize = 1 * window::kMiB;
inline constexpr std::uint64_t kLoopStackOffset = 2 * window::kMiB;
inline constexpr std::uint64_t kLoopStackSize = 64 * 1024;
inline constexpr std::uint64_t kSignalStackOffset = 2 * window::kMiB + 512 * 1024;
inline constexpr std::uint64_t kSignalStackSize = 128 * 1024;
inline constexpr std::uint64_t kPrintfOffset = 4 * window::kMiB;
inline constexpr std::uint64_t kPrintfSize = 1 * window::kMiB;
inline constexpr std::uint64_t kKernelGuardOffset = kPrintfOffset + kPrintfSize;
inline constexpr std::uint64_t kKernelStackOffset = 64 * window::kMiB;
inline constexpr std::uint64_t kLocalMemoryOffset = window::kUnitSpace - window::kUnitLocalMemory;
inline constexpr std::uint64_t kKernelStackSize = kLocalMemoryOffset - kKernelStackOffset - 64 * 1024;

constexpr std::uint64_t unit_space(std::uint32_t index) {
  return window::kUnits.start + index * window::kUnitSpace;
}

}  // namespace mirrorcl::firmware
#endif
