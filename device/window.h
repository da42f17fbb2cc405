// SPDX-License-Identifier: Apache-2.0
// The window: the one address range that application (A) and device process (D) both keep for MirrorCL, at the same address
// in both, so that a pointer into it means the same bytes to either. It never migrates. This header is its map; it is
// compiled into the driver and into the firmware, and holds no libc.
//
// The units of the ATS device (device/ats) run in A's memory: firmware holds the firmware's segments there, and units is
// mapped as in D; loaded kernels in code are executable and read-only.
//
//   region            in A                          in D
//   firmware          private                       the firmware's own segments; in A CpuDevice's own state (device/cpu)
//   control           shared, read-write            shared, read-write         ControlBlock, queues, signals
//   heap              shared, read-write            shared, read-write         argument blocks, printf buffers
//   code              shared, read-write            shared, read-write-execute kernels
//   pinned            private                       not mapped                 stacks and data of A's pinned threads
//   staging           private                       not mapped                 pages in transit (UFFDIO_MOVE)
//   views             on demand                     not mapped                 where the mirror makes mappings before it moves them
//   units             reserved, no access           private                    stacks and local memory of compute units
#pragma once

#include <cstddef>
#include <cstdint>

namespace mirrorcl::window {

struct Region {
  std::uint64_t start;  // address
  std::uint64_t size;   // bytes
  constexpr std::uint64_t end() const { return start + size; }
  constexpr bool contains(std::uint64_t address) const { return address >= start && address - start < size; }
};

inline constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kPageSize = 4096;

inline constexpr Region kWindow{0x2000'0000'0000, 64 * kGiB};

inline constexpr Region kFirmware{kWindow.start, 64 * kMiB};
inline constexpr Region kControl{kFirmware.end(), 192 * kMiB};
inline constexpr Region kHeap{kControl.end(), 7 * kGiB + 768 * kMiB};
inline constexpr Region kCode{kHeap.end(), 2 * kGiB};
inline constexpr Region kPinned{kCode.end(), 4 * kGiB};
inline constexpr Region kStaging{kPinned.end(), 2 * kGiB};
inline constexpr Region kViews{kStaging.end(), 16 * kGiB};
inline constexpr Region kUnits{kViews.end(), 32 * kGiB};
static_assert(kUnits.end() == kWindow.end());

// Device memory's file offset equals the virtual address, for the whole user address space.
inline constexpr std::uint64_t kUserSpaceStart = 0x1'0000;           // below lies mmap_min_addr
inline constexpr std::uint64_t kUserSpaceEnd = 0x7fff'ffff'f000;     // end of 47-bit user space
inline constexpr std::uint64_t kDeviceMemoryFileSize = std::uint64_t{1} << 47;

inline constexpr std::uint32_t kMaxUnits = 128;
inline constexpr std::uint64_t kUnitSpace = kUnits.size / kMaxUnits;  // 256 MiB: guard, stack, local memory
inline constexpr std::uint64_t kUnitLocalMemory = 16 * kMiB;          // at the end of a unit's space

}  // namespace mirrorcl::window
