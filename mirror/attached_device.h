// SPDX-License-Identifier: Apache-2.0
// One of the devices that the mirror serves. Its index names it in the masks of a block (block.h) for as long as it is
// attached.
//
// Locking: service thread only.
#pragma once

#include <cstdint>

#include "mirror/address_space.h"
#include "mirror/block.h"
#include "mirror/device/operations.h"

namespace mirrorcl::mirror {

struct AttachedDevice {
  DeviceOperations* operator->() const noexcept { return operations; }
  DeviceSet set() const noexcept { return static_cast<DeviceSet>(1U << index); }

  DeviceOperations* operations = nullptr;  // null: none is attached under this index
  unsigned index = 0;                      // less than kMaxDevices
  std::uint64_t room = 0;                  // bytes of its memory that may be filled before its use is looked at again
  FileIdentity shared_file{};              // what the application maps where pages are coherent
  std::uint64_t clock_hand = 0;            // address where eviction from its memory goes on
  bool told_full = false;                  // that nothing in its memory can leave
};

}  // namespace mirrorcl::mirror
