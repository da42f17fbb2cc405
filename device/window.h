// SPDX-License-Identifier: Apache-2.0
// The window: the one address range that application (A) and device processes (D) all keep for MirrorCL, at the same address
// in each, so that a pointer into it means the same bytes to all. It never migrates. This header is its map; it is
// compiled into the driver and into the firmware, and holds no libc.
//
// Heap and code serve all devices of an application: a kernel loaded once runs on each. The control region begins with what
// is common to all; then each device has a part of its own, which the others do not map.
//
// The units of the ATS device (device/ats) run in A's memory: firmware holds the firmware's segments there, and units is
// mapped as in D; loaded kernels in code are executable and read-only.
//
//   region            in A                          in D
//   firmware          private                       the firmware's own segments; in A the CpuDevices' own state (device/cpu)
//   control           shared, read-write            shared, read-write         SharedControl; ControlBlock, queues, signals
//   heap              shared, read-write            shared, read-write         argument blocks, printf buffers
//   code              shared, read-write            shared, read-write-execute kernels
//   pinned            private                       not mapped                 stacks and data of A's pinned threads
//   staging           private                       not mapped                 pages in transit (UFFDIO_MOVE)
//   views             on demand                     not mapped                 where the mirror makes mappings before it moves them, and sees blocks of device memory that it fills
//   units             reserved, no access           private                    stacks and local memory of compute units
#pragma once

#include <cstddef>
#include <cstdint>

// Where the window begins: an address that hardly any program uses. The firmware is linked there (its CMakeLists.txt reads
// this line); the build option of this name moves it all, for ThreadSanitizer, which keeps these addresses for itself.
#ifndef MIRRORCL_WINDOW_BASE
#define MIRRORCL_WINDOW_BASE 0x200000000000
#endif

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

inline constexpr std::uint32_t kMaxDevices = 4;  // of one application

inline constexpr Region kWindow{MIRRORCL_WINDOW_BASE, 64 * kGiB};
static_assert(kWindow.start % (2 * kMiB) == 0);

inline constexpr Region kFirmware{kWindow.start, 64 * kMiB};
inline constexpr Region kSharedControl{kFirmware.end(), 2 * kMiB};
inline constexpr std::uint64_t kDeviceControlSize = 192 * kMiB;
inline constexpr Region kControl{kFirmware.end(), kSharedControl.size + kMaxDevices * kDeviceControlSize};
inline constexpr Region kHeap{kControl.end(), 8 * kGiB - kFirmware.size - kControl.size};
inline constexpr Region kCode{kHeap.end(), 2 * kGiB};
inline constexpr Region kPinned{kCode.end(), 4 * kGiB};
inline constexpr Region kStaging{kPinned.end(), 2 * kGiB};
inline constexpr Region kViews{kStaging.end(), 16 * kGiB};
inline constexpr Region kUnits{kViews.end(), 32 * kGiB};
static_assert(kUnits.end() == kWindow.end());

// The control region's part of one device.
constexpr Region device_control(std::uint32_t device) {
  return {kSharedControl.end() + device * kDeviceControlSize, kDeviceControlSize};
}

// Device memory's file offset equals the virtual address, for the whole user address space.
inline constexpr std::uint64_t kUserSpaceStart = 0x1'0000;           // below lies mmap_min_addr
inline constexpr std::uint64_t kUserSpaceEnd = 0x7fff'ffff'f000;     // end of 47-bit user space
inline constexpr std::uint64_t kDeviceMemoryFileSize = std::uint64_t{1} << 47;

inline constexpr std::uint32_t kMaxUnits = 128;
inline constexpr std::uint64_t kUnitSpace = kUnits.size / kMaxUnits;  // 256 MiB: guard, stack, local memory
inline constexpr std::uint64_t kUnitLocalMemory = 16 * kMiB;          // at the end of a unit's space

}  // namespace mirrorcl::window
