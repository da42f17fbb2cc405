// SPDX-License-Identifier: Apache-2.0
// A device's memory as hbind() sees it (hms/device_memory.h), by way of the mirror that serves the device.
#pragma once

#include "hms/device_memory.h"
#include "mirror/mirror.h"

namespace mirrorcl::mirror {

// Locking: any thread but the pinned ones.
class MirroredMemory final : public hms::DeviceMemory {
 public:
  // `device` is attached to `mirror`; both outlive this. `target` is the device's memory in the topology.
  MirroredMemory(Mirror& mirror, DeviceOperations& device, hms::Uid target)
      : mirror_(mirror), device_(device), target_(target) {}

  hms::Uid target() const noexcept override { return target_; }
  std::uint64_t free_bytes() const noexcept override;
  int move_in(hms::AddressRange range, hms::Untouched untouched) noexcept override;
  int move_out(hms::AddressRange range) noexcept override;
  void residency(hms::AddressRange range, std::span<hms::Uid> places) const noexcept override;
  void settle() noexcept override { mirror_.drain_events(); }
  void policy_changed(hms::AddressRange range) noexcept override {
    mirror_.watch_policies({range.start, range.size()});
  }

 private:
  void mark(const PageMask& pages, std::uint64_t base, hms::AddressRange range,
            std::span<hms::Uid> places) const noexcept;

  Mirror& mirror_;
  DeviceOperations& device_;
  hms::Uid target_;
};

}  // namespace mirrorcl::mirror
