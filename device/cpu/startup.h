// SPDX-License-Identifier: Apache-2.0
// How A starts D: the descriptors that D inherits, the message that awaits it and the one that it answers with.
// Compiled into the driver and the firmware; no libc.
//
//   A                                         D
//   fills the ControlBlock, active = 0
//   Start, then spawns the firmware  ------>  opens its pagemap, maps the window, takes over the address space,
//                                             opens its userfaultfd, starts its units
//   takes the descriptors  <----------------  Hello (or Hello with the step that failed)
//   active = 1
//   MapRequest, as needed  -------------->  maps a file, or changes a protection
//                          <--------------  MapAnswer
//                                             ends with A: end of file on the socket, or A's pidfd
//
// The units of the ATS device share the application's memory. There the firmware is not exec'ed but called, in a
// process that shares A's memory and nothing else: the window is there already, nothing is taken over, and no
// userfaultfd made.
#pragma once

#include <cstdint>

namespace mirrorcl::device {

// The argument of the firmware's entry: whose memory it runs in. exec gives 0.
inline constexpr std::uint64_t kOwnMemory = 0;
inline constexpr std::uint64_t kApplicationMemory = 1;

// Of Start, Hello, MapRequest, and all that the control region holds (device/packet.h).
inline constexpr std::uint32_t kProtocolVersion = 5;

// Descriptors of the firmware, in this order.
enum StartupFd : int {
  kSocketFd = 0,        // SOCK_SEQPACKET to A's service thread; its end of file is the end of D
  kWindowFd = 1,        // control, heap and code regions, in the window's order; unused in the application's memory
  kDeviceMemoryFd = 2,  // file offset = virtual address; likewise
  kApplicationFd = 3,   // pidfd of A: readable when A has ended, even if a stray child of A holds the socket
  kSharingFd = 4,       // SOCK_SEQPACKET to A's other threads, for MapRequests; unused in the application's memory
  kStartupFdCount = 5,
};

inline constexpr std::uint32_t kHelloMagic = 0x4d43'4c44;  // "DLCM"

// From A to a unit: UnitState::fault holds a verdict. SIGUSR1.
inline constexpr int kAbortSignal = 10;

// Lies in the socket when D starts.
struct Start {
  std::uint32_t version;  // kProtocolVersion of the driver
  std::uint32_t device;   // which of the application's devices it is, < window::kMaxDevices
};

// What comes along with a Hello that says ready; nothing from the units of the ATS device.
enum HelloDescriptor : int {
  kUserfaultfd = 0,  // of D's address space
  kPagemap = 1,      // of D: its /proc/self/pagemap, which nobody else may open but who may trace it
};

struct Hello {
  std::uint32_t magic;        // kHelloMagic
  std::uint32_t version;      // kProtocolVersion of the firmware
  std::int32_t error_number;  // 0: ready, and HelloDescriptors come along; else the errno of `failed_step`
  std::uint32_t symbol_count;
  std::uint64_t features;      // UFFD_FEATURE_... that were asked for and granted
  std::int32_t pagemap_error;  // 0, or the errno of opening it: it does not come along
  std::uint32_t reserved;
  char failed_step[64];
};

// From A to D: a change of D's address space that cannot be made from outside. One at a time on each of the two
// sockets.
struct MapRequest {
  enum Kind : std::uint32_t {
    kMap,      // maps the file of the descriptor that comes along, shared, over the range
    kProtect,  // changes the protection of what is mapped there
  };
  std::uint32_t sequence;
  Kind kind;
  std::uint32_t protection;  // PROT_...
  std::uint64_t start;       // page aligned, outside of the window
  std::uint64_t size;
  std::uint64_t offset;  // in the file
};

struct MapAnswer {
  std::uint32_t sequence;  // the request's
  std::int32_t error;      // 0 or -errno
};

}  // namespace mirrorcl::device
