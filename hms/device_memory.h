// SPDX-License-Identifier: Apache-2.0
// What hbind() asks of whoever moves pages to a device and back: the mirror implements this for each of its devices,
// tests do it with a table.
#pragma once

#include <cstdint>
#include <span>

#include "hms/policy.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

// What becomes of pages that nobody has touched yet.
enum class Untouched : std::uint8_t { kSkip, kAllocate };

// Ranges are page aligned and mapped when the call begins; they may be unmapped by another thread meanwhile, and what
// is gone is left out then. Locking: called by application threads, several at once.
class DeviceMemory {
 public:
  static constexpr std::uint64_t kPageSize = 4096;

  virtual ~DeviceMemory() = default;

  // The target of the topology that this memory is.
  virtual Uid target() const noexcept = 0;
  // Bytes that pages can still be moved to without another leaving.
  virtual std::uint64_t free_bytes() const noexcept = 0;

  // Moves the pages of `range` here, wherever they live (also from another device), as far as there is room and as
  // they can be moved; kAllocate also maps them for the device ahead of its first access. 0, or -errno when nothing
  // can be moved at all.
  virtual int move_in(AddressRange range, Untouched untouched) noexcept = 0;
  // Brings the pages of `range` that live here to the host.
  virtual int move_out(AddressRange range) noexcept = 0;

  // Writes target() to places[i] if page i of `range` lives here, also if the host has it mapped or holds a copy;
  // leaves the others alone. `places` has one element per page.
  virtual void residency(AddressRange range, std::span<Uid> places) const noexcept = 0;

  // Returns once policies have been dropped from all memory that was unmapped before this call. A policy that is made
  // afterwards is not taken for one of what was there before.
  virtual void settle() noexcept {}
  // The policy of `range` has changed; the mirror watches it from now on, so as to drop the policy when it is unmapped,
  // and maps it for initiators that access it all the time. The change is in the table already.
  virtual void policy_changed(AddressRange range) noexcept = 0;
};

}  // namespace mirrorcl::hms
