// SPDX-License-Identifier: Apache-2.0
// What mirror/ asks of a device: the operations table of its MMU and memory (after GMEM's driver table and HMM's
// hooks). mirror/ knows no device beyond this; a new MMU backend is one implementation of DeviceOperations.
//
// Device memory is addressed by the virtual address of the page it backs. A device page exists from copy_in or
// zero_fill until unmap; a mapping (PTE) of it is installed by map and removed by unmap. Residency and mapping are thus
// separate.
//
// Locking: all calls but the capability queries, copy_in_mapped, copy_out and unmap are made by the mirror's service
// thread only. They must not touch memory that can migrate, must not allocate with malloc, and must not wait for the
// application. Results are 0 or -errno; -EAGAIN means that host events must be drained first, then the call repeated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "device/packet.h"

namespace mirrorcl::mirror {

// Page aligned.
struct Range {
  std::uint64_t start;  // address
  std::uint64_t size;   // bytes
  constexpr std::uint64_t end() const { return start + size; }
};

// How far an operation came: the first `done` bytes are finished; `error` is 0 if that was all of them, else -errno.
struct Progress {
  std::uint64_t done;
  int error;
};

enum class Access : std::uint8_t { kNone, kRead, kReadWrite };

struct DeviceFault {
  std::uint64_t address;    // page aligned
  Access access;            // what the device tried
  bool protection;          // a mapping existed but was read-only
  std::uint32_t requester;  // opaque to the mirror; names the unit to fail()
};

struct DeviceCapabilities {
  // The CPU can map device memory: pages that go back and forth are shared there. If not, memory is private to the
  // device, a CPU access always brings the page back, and such pages are shared in host memory (map_file).
  bool memory_cpu_mappable;
  bool native_atomics;        // device atomics are coherent with the CPU's on a coherent page
  bool parallel_copies;       // copy_in_mapped, copy_out and unmap may be called for several disjoint ranges at once
  std::uint64_t memory_size;  // bytes that may be resident at once
  // The device translates addresses with the application's own page tables (ATS): it has no memory and no mappings of
  // its own, never reports a fault, and needs no mirror.
  bool shares_page_tables = false;
};

class DeviceOperations {
 public:
  virtual ~DeviceOperations() = default;

  virtual DeviceCapabilities capabilities() const noexcept = 0;

  // Bytes of device memory in use, whatever for.
  virtual std::uint64_t memory_in_use() const noexcept = 0;

  // A file whose offset equals the virtual address, or -1 if there is none. Memory that is shared from birth lies in
  // it; migrated pages are mapped into the application from it only if memory_cpu_mappable.
  virtual int memory_fd() const noexcept = 0;

  // Readable when next_faults has something to return. Changes when the device restarts.
  virtual int fault_fd() const noexcept = 0;
  // Takes up to faults.size() pending faults without blocking; returns their number, or -errno.
  virtual int next_faults(std::span<DeviceFault> faults) noexcept = 0;

  // Readable once the device is gone (a pidfd); on_lost() is then called once: it fails whatever the device was
  // running. Device memory and the calls on it stay valid; map and protect become no-ops that return 0 until the device
  // restarts.
  virtual int lost_fd() const noexcept = 0;
  virtual void on_lost() noexcept = 0;

  // Fills device memory of `range` from `source` (host memory, range.size bytes). -EFAULT if source cannot be read.
  virtual int copy_in(Range range, const void* source) noexcept = 0;
  // copy_in, then map, in one step where the device has a quicker way to do both. Page by page: accesses that wait for
  // a page go on before the whole range is finished. Called by the mirror's copy threads too.
  virtual Progress copy_in_mapped(Range range, const void* source, Access access) noexcept {
    int error = copy_in(range, source);
    if (error == 0) error = map(range, access);
    return {error == 0 ? range.size : 0, error};
  }
  // Makes `range` zero-filled device memory where no device page exists yet; existing pages keep their contents.
  virtual int zero_fill(Range range) noexcept = 0;
  // Reads device memory into `destination` (pinned memory).
  virtual int copy_out(Range range, void* destination) noexcept = 0;

  // Installs mappings for existing device pages of `range` and replays accesses that wait on them. Pages already mapped
  // are left alone; kRead installs them write-protected.
  virtual int map(Range range, Access access) noexcept = 0;
  // Changes existing mappings; kRead makes later writes fault, kReadWrite lets them through and replays waiting ones.
  virtual int protect(Range range, Access access) noexcept = 0;
  // Removes mappings and frees the device pages; translation caches are flushed on return. Called by the mirror's copy
  // threads too.
  virtual int unmap(Range range) noexcept = 0;
  // The same for pages that nobody but the device has mapped. Their memory may stay in use until the last page of a
  // large one has gone, or free_kept() is called, unseen. Called by the mirror's copy threads too.
  virtual int vacate(Range range) noexcept { return unmap(range); }
  virtual void free_kept() noexcept {}

  // Device memory for the whole block (2 MiB) at `address`, of which it has none: where the CPU can fill it, until the
  // next call. Null: page by page, then. It holds what it holds; the pages are device pages from then on.
  virtual void* allocate_block(std::uint64_t /*address*/) noexcept { return nullptr; }
  // The block that allocate_block() gave has been filled: maps it, and replays accesses that wait on it.
  virtual int map_block(std::uint64_t /*address*/) noexcept { return -95 /* EOPNOTSUPP */; }

  // Retries accesses that wait on `range` without changing any mapping.
  virtual int replay(Range range) noexcept = 0;

  // Maps `range` of the file `fd` from `offset` on in place of device memory, which must be empty there, so that
  // device, application and read(2) see the one copy in the page cache; replays accesses that wait on it. A second call
  // changes the access. Accesses to it never fault to the mirror: a write where only kRead was given is an error. If
  // the device restarts, the mapping is gone. -EOPNOTSUPP: the device has no such thing.
  virtual int map_file(Range /*range*/, int /*fd*/, std::uint64_t /*offset*/, Access /*access*/) noexcept {
    return -95 /* EOPNOTSUPP */;
  }
  // The opposite: empty device memory again.
  virtual int unmap_file(Range /*range*/) noexcept { return -95 /* EOPNOTSUPP */; }

  // Ends the access with an error: the work-group that made it is aborted and its command fails.
  virtual int fail(const DeviceFault& fault, device::FaultKind kind) noexcept = 0;
};

}  // namespace mirrorcl::mirror
