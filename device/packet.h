// SPDX-License-Identifier: Apache-2.0
// What application and device process exchange through the window: user-mode queues of dispatch packets in the manner of
// HSA's AQL, completion signals, and the state of each compute unit. Plain data and lock-free atomics; no libc.
//
// A dispatch, start to end
//   1. A fills packets[write_index % size] of a queue, then stores write_index + 1 (release), then, only if no unit
//      spins and some sleep (ControlBlock::spinning_units, sleeping_units), bumps ControlBlock::doorbell and wakes it.
//   2. Units claim chunks of work-groups from the packet at read_index through `claim` (generation and next chunk in one
//      word, so that a unit that looks at a recycled slot cannot claim from it).
//   3. The unit that finishes the last chunk writes the times, stores read_index + 1, then signal->status, and wakes waiters.
// Packets of one queue run in order, one at a time. Queues run side by side.
#pragma once

#include <atomic>
#include <cstdint>

#include "device/window.h"

namespace mirrorcl::device {

// Execution status of a signal: OpenCL's numbers, so that an event's status is read straight from it.
inline constexpr std::int32_t kStatusComplete = 0;
inline constexpr std::int32_t kStatusRunning = 1;
inline constexpr std::int32_t kStatusSubmitted = 2;
// Negative: abnormal termination. The reason is in SignalError.
inline constexpr std::int32_t kStatusKernelFailed = -9001;  // the kernel did something that the device refused
inline constexpr std::int32_t kStatusDeviceLost = -9002;    // the device process died before the packet completed

enum class FaultKind : std::uint32_t {
  kNone = 0,
  kInvalidAddress,   // no mapping in the application, or address beyond user space
  kReadOnly,         // a write to memory that the application may only read
  kUnmappable,       // memory the mirror cannot give to a device (see the log for the reason)
  kOutOfMemory,      // device memory is used up and nothing could go home
  kIntegerDivide,    // SIGFPE
  kIllegalInstruction,
  kTrap,             // breakpoint or trap instruction
  kStackOverflow,
  kForbiddenCall,    // a system call from a kernel
  kUnknown,
  kMisaligned,       // a vector access that must be aligned and was not
  kAborted,          // ended on the application's behalf, see CpuDevice::abort
};

struct SignalError {
  FaultKind kind;
  std::uint32_t work_dim;
  std::uint64_t address;       // the address accessed, or of the instruction
  std::uint64_t instruction;   // program counter
  std::uint64_t group[3];      // work-group id
};

struct alignas(64) Signal {
  std::atomic<std::uint32_t> status;   // one of kStatus..., as unsigned; a futex word
  std::atomic<std::uint32_t> waiters;  // threads of A in futex_wait on status; the unit wakes only if it is not zero
  std::uint64_t start_ns;              // CLOCK_MONOTONIC, valid if Packet::kProfile was set and status <= complete
  std::uint64_t end_ns;
  std::atomic<std::uint32_t> error_claimed;  // the first failing work-group describes itself in `error`
  // Tells one use of this memory from the next: counted before `status` is set for the next one, so that who reads the
  // status first and the serial then knows whose status it was.
  std::atomic<std::uint32_t> serial;
  SignalError error;

  std::int32_t load_status() const noexcept { return static_cast<std::int32_t>(status.load(std::memory_order_acquire)); }
};

// One argument of a kernel as the unit hands it to PoCL's work-group function: args[i] = address of the value in the
// argument block, or, for local memory, the address of a pointer to `size` bytes in the unit's local memory.
struct Argument {
  enum class Kind : std::uint32_t { kValue, kLocal };
  Kind kind;
  std::uint32_t offset;  // kValue: bytes from the start of the ArgumentBlock
  std::uint64_t size;    // kLocal: bytes, aligned up to 128 by the unit
};

// In the window's heap. Followed by `count` Arguments and the values they point at.
struct ArgumentBlock {
  std::uint32_t count;   // kernel arguments, then automatic locals
  std::uint32_t size;    // bytes of block, arguments and values
  const Argument* arguments() const noexcept { return reinterpret_cast<const Argument*>(this + 1); }
  Argument* arguments() noexcept { return reinterpret_cast<Argument*>(this + 1); }
};

// Text printed by the work-groups of one dispatch. In the window's heap, followed by `capacity` bytes.
struct PrintfBuffer {
  std::atomic<std::uint32_t> used;  // bytes reserved; beyond capacity the text was dropped
  std::uint32_t capacity;
  char* text() noexcept { return reinterpret_cast<char*>(this + 1); }
};

struct alignas(64) Packet {
  static constexpr std::uint32_t kProfile = 1;       // fill Signal::start_ns and end_ns
  static constexpr std::uint32_t kFlushDenormals = 2;  // flush denormals to zero while the kernel runs
  static constexpr std::uint32_t kNotify = 4;        // on completion also bump SharedControl::completions and wake it

  std::uint64_t code;            // entry: void (u8* args, u8* pocl_context, u64 gx, u64 gy, u64 gz)
  ArgumentBlock* arguments;
  PrintfBuffer* printf_buffer;   // null if the kernel prints nothing
  Signal* signal;
  std::uint64_t num_groups[3];
  std::uint64_t global_offset[3];
  std::uint64_t local_size[3];
  // Non-uniform work-groups: sizes of the last group of each dimension; equal to local_size when it divides evenly.
  std::uint64_t last_local_size[3];
  std::uint64_t chunk_groups;    // work-groups per chunk, chosen by A
  std::uint32_t chunk_count;     // chunks of the whole dispatch, >= 1 unless the grid is empty (then the packet completes at once)
  std::uint32_t work_dim;
  std::uint32_t flags;
  std::uint32_t reserved;
  std::atomic<std::uint64_t> claim;     // (low 32 bits of the packet's index) << 32 | next chunk
  std::atomic<std::uint32_t> finished;  // chunks finished
  std::atomic<std::uint32_t> failed;    // not zero: remaining chunks are claimed but not run
};

inline constexpr std::uint32_t kQueueSize = 1024;  // packets; a power of two
inline constexpr std::uint32_t kMaxQueues = 256;

struct alignas(64) Queue {
  std::atomic<std::uint64_t> write_index;  // by A, under the owner's lock
  alignas(64) std::atomic<std::uint64_t> read_index;  // by the unit that completes a packet
  alignas(64) Packet packets[kQueueSize];
};

// A unit's public state. `fault` is the service thread's verdict on an access that cannot be served: written by A before it
// sends the unit the signal kAbortSignal, read by the unit's handler.
struct alignas(64) UnitState {
  std::atomic<std::uint32_t> thread_id;  // D's thread id, 0 until it runs
  std::atomic<std::uint32_t> fault;      // a FaultKind; kNone when there is no verdict
  std::atomic<std::uint64_t> fault_address;
  std::atomic<Packet*> packet;           // what it runs now, or null
  std::atomic<std::uint64_t> groups_run;  // work-groups since start (statistics); tells one execution from the next
  std::atomic<std::uint32_t> fault_group;  // low 32 bits of groups_run when the access was made: a late verdict is ignored
  // The signal that the unit is about to complete, whose packet is in no queue any more: should the unit die just then,
  // A completes it. Null when there is none.
  std::atomic<std::uint32_t> finishing_serial;
  std::atomic<Signal*> finishing;
};

// At window::kSharedControl.start: one for all devices.
struct SharedControl {
  alignas(64) std::atomic<std::uint32_t> completions;  // futex: bumped for every completed packet with kNotify
  std::atomic<std::uint32_t> completion_waiters;
};
static_assert(sizeof(SharedControl) <= window::kSharedControl.size);

inline SharedControl& shared_control() noexcept {
  return *reinterpret_cast<SharedControl*>(window::kSharedControl.start);
}

// At the start of the device's part of the control region, see DeviceControl.
struct ControlBlock {
  std::uint32_t unit_count;  // set by A before D starts
  std::uint32_t spin_ns;     // how long an idle unit spins before it sleeps
  std::atomic<std::uint32_t> queue_count;  // queues [0, queue_count) exist; a closed one has nothing to read
  std::atomic<std::uint32_t> active;       // units take packets only while it is not zero
  std::uint32_t max_spinning;              // units that may spin at once; the others sleep as soon as they are idle

  alignas(64) std::atomic<std::uint32_t> doorbell;  // futex: bumped by A after a submission when units sleep
  std::atomic<std::uint32_t> sleeping_units;
  // Units that look at the queues without pause. A need not ring while one does: a unit that stops spinning, because it found
  // work or to sleep, first counts itself out and then looks at all queues once more.
  alignas(64) std::atomic<std::uint32_t> spinning_units;

  UnitState units[window::kMaxUnits];
};

// Between the control block and the queues: the firmware's offers to kernels, and its last words before it ends itself.
struct FirmwareSymbol {
  char name[24];
  std::uint64_t address;
};
inline constexpr std::uint64_t kSymbolsOffset = 256 * 1024;
inline constexpr std::uint32_t kMaxSymbols = 8192;
inline constexpr std::uint64_t kLastWordsOffset = 768 * 1024;
inline constexpr std::uint32_t kLastWordsSize = 256;

inline constexpr std::uint64_t kQueuesOffset = 1 * window::kMiB;
inline constexpr std::uint64_t kSignalsOffset = 160 * window::kMiB;
inline constexpr std::uint32_t kMaxSignals = (window::kDeviceControlSize - kSignalsOffset) / sizeof(Signal);
static_assert(sizeof(ControlBlock) <= kSymbolsOffset);
static_assert(kSymbolsOffset + kMaxSymbols * sizeof(FirmwareSymbol) <= kLastWordsOffset);
static_assert(kLastWordsOffset + kLastWordsSize <= kQueuesOffset);
static_assert(kQueuesOffset + kMaxQueues * sizeof(Queue) <= kSignalsOffset);

// One device's part of the control region.
class DeviceControl {
 public:
  constexpr explicit DeviceControl(std::uint32_t device) noexcept : region_(window::device_control(device)) {}

  const window::Region& region() const noexcept { return region_; }
  ControlBlock& block() const noexcept { return *at<ControlBlock>(0); }
  FirmwareSymbol* symbols() const noexcept { return at<FirmwareSymbol>(kSymbolsOffset); }  // kMaxSymbols
  char* last_words() const noexcept { return at<char>(kLastWordsOffset); }                 // kLastWordsSize bytes
  Queue* queue(std::uint32_t index) const noexcept { return at<Queue>(kQueuesOffset) + index; }
  Signal* signal(std::uint32_t index) const noexcept { return at<Signal>(kSignalsOffset) + index; }

  // Whether it points at one of the signals.
  bool is_signal(const Signal* pointer) const noexcept {
    const std::uint64_t offset = reinterpret_cast<std::uint64_t>(pointer) - region_.start;
    return offset >= kSignalsOffset && offset < region_.size && (offset - kSignalsOffset) % sizeof(Signal) == 0;
  }

 private:
  template <typename T>
  T* at(std::uint64_t offset) const noexcept {
    return reinterpret_cast<T*>(region_.start + offset);
  }

  window::Region region_;
};

}  // namespace mirrorcl::device
