// SPDX-License-Identifier: Apache-2.0
// A CPU device: a process D whose address space is the device's MMU (DESIGN: docs/architecture.md), driven from here.
// This is A's side: it starts D, implements the mirror's operations table on D's userfaultfd and the device memory
// file, and hands out queues, signals, argument memory and code space in the window.
//
// An application has up to window::kMaxDevices of them. What is per device: the process, its memory file, queues and
// the signals of its packets (any device can wait for them). What serves all, whichever device it came from: argument
// memory, code space, and the notice of completions.
//
// Thread safety: every member may be called from any thread unless it says otherwise.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "device/packet.h"
#include "mirror/device/operations.h"

namespace mirrorcl::device {

struct CpuDeviceOptions {
  std::uint32_t compute_units = 0;  // 0: the CPUs this process may run on
  std::uint64_t memory_size = 0;    // bytes that may be resident; 0: half of what the process may use
  // The CPU does not map device memory, as behind PCIe: a CPU access brings a page home, and pages that go back and
  // forth are shared in host memory. Memory shared from birth is mapped by both all the same.
  bool private_memory = false;
  std::uint32_t spin_us = 50;
  std::string firmware;  // path; empty: private_file("mirrorcl-firmware")
};

// Reserves the window in this process and maps its shared regions; idempotent. kNotSupported if the range is taken.
Result<void> reserve_window();

class CpuDevice : public mirror::DeviceOperations {
 public:
  // Starts D. Takes under 20 ms. The window must be reserved. kNotSupported if it has no room for one more.
  static Result<std::unique_ptr<CpuDevice>> start(const CpuDeviceOptions& options);

  // After on_lost(): starts a new D over the same device memory, then the caller attaches it to the mirror again.
  // Queues are kept, emptied. Does nothing if D lives.
  virtual Result<void> restart() = 0;
  virtual bool lost() const noexcept = 0;
  virtual std::uint32_t compute_units() const noexcept = 0;
  virtual int process_id() const noexcept = 0;

  // --- memory that is coherent from birth
  // Makes [range) of device memory visible to D without faults. A maps memory_fd() at the same address itself.
  virtual Result<void> share(mirror::Range range) = 0;

  // The same for memory of another device, of which D may have no page there of its own. The owner must live until the
  // range is unshared here.
  virtual Result<void> share_of(const CpuDevice& /*owner*/, mirror::Range /*range*/) {
    return mirrorcl::fail(ErrorCode::kNotSupported, "this device cannot map another one's memory");
  }

  // The same for any memory file whose offset is the address: a device's own, another's, or the host's. It must stay
  // open as long as the device lives.
  virtual Result<void> share_file(int /*memory*/, mirror::Range /*range*/) {
    return mirrorcl::fail(ErrorCode::kNotSupported, "this device cannot map memory files");
  }

  // The opposite of all, before the range's addresses are used for anything else: D faults on it again. Memory of this
  // device in the range is freed.
  virtual Result<void> unshare(mirror::Range /*range*/) {
    return mirrorcl::fail(ErrorCode::kNotSupported, "this device cannot take shared memory back");
  }

  // --- user-mode queues
  virtual Result<Queue*> create_queue() = 0;
  // What is left in it must name nothing that goes; it runs before the packets of the next owner.
  virtual void destroy_queue(Queue* queue) noexcept = 0;
  // Copies `packet` into the queue and rings the doorbell. The caller holds the queue's lock. Fills chunk_groups and
  // chunk_count, claim and finished. Returns false if the queue is full (kQueueSize packets outstanding).
  // On a lost device the packet fails at once (kStatusDeviceLost). The number of work-groups must fit in 64 bits; an
  // empty grid completes in its turn without running anything, which makes it a barrier.
  virtual bool submit(Queue* queue, const Packet& packet) noexcept = 0;

  // --- completion signals
  virtual Result<Signal*> create_signal() = 0;  // status kStatusSubmitted
  virtual void destroy_signal(Signal* signal) noexcept = 0;
  // For the next packet, as a new one would be: its own has ended, and nobody waits for it.
  virtual void renew_signal(Signal* signal) noexcept = 0;
  // Spins, then sleeps, until the status is <= kStatusComplete or the timeout passed (negative: for ever). Returns the
  // status.
  virtual std::int32_t wait(Signal* signal, std::int64_t timeout_ns = -1) noexcept = 0;
  // Ends the running work-groups of the packet that `signal` belongs to, and so the packet (kAborted), even if they
  // would run for ever; waits until that has happened or the timeout passed. A packet that has not begun is not
  // affected. Returns the status.
  virtual std::int32_t abort(Signal* signal, std::int64_t timeout_ns) noexcept { return wait(signal, timeout_ns); }
  // Sleeps until a packet with kNotify completes, or wake_completions() is called, after `seen` was read from
  // completions(). For the one thread that watches on behalf of callbacks and dependants.
  virtual std::uint32_t completions() const noexcept = 0;
  virtual void wait_completions(std::uint32_t seen, std::int64_t timeout_ns = -1) noexcept = 0;
  virtual void wake_completions() noexcept = 0;

  // --- window memory: argument blocks and printf buffers (64-byte aligned, A and D read-write)
  virtual void* allocate(std::size_t bytes) noexcept = 0;  // null when used up
  virtual void free(void* memory) noexcept = 0;
  // Code space: A read-write, D also execute; page aligned.
  virtual void* allocate_code(std::size_t bytes) noexcept = 0;
  virtual void free_code(void* memory) noexcept = 0;
  // Whole pages of allocated code space hold their final instructions: from now on units may execute them, and nobody
  // may write to them until they are freed. Needed only where units run in the application's memory; elsewhere D's
  // mapping of code is executable from the start, and this does nothing.
  virtual Result<void> make_executable(void* /*start*/, std::size_t /*bytes*/) { return {}; }

  // The address in D of a function that the firmware offers to kernels ("memset", "snprintf", "fmod", ...), or 0.
  virtual std::uint64_t firmware_symbol(const char* name) const noexcept = 0;
};

// "invalid address", "integer division by zero", ...
const char* fault_kind_name(FaultKind kind) noexcept;

}  // namespace mirrorcl::device
