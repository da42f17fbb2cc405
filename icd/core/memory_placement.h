// SPDX-License-Identifier: Apache-2.0
// Where memory lives, for the extension cl_mirrorcl_hms: the driver's device in the process's topology, and joined to
// the process's hbind() (hms/process.h).
#pragma once

#include <memory>

#include "base/result.h"
#include "hms/binder.h"
#include "hms/process.h"
#include "icd/core/runtime.h"

namespace mirrorcl::icd {

class MemoryPlacement {
 public:
  // Looks at the machine and joins the device of `runtime`, at the first call; some tens of milliseconds then.
  static Result<MemoryPlacement*> get(Runtime& runtime);

  hms::Binder& binder() noexcept { return binder_; }
  // The device and its memory in the topology. The ATS device has none of its own: kNoUid.
  const hms::ProcessDeviceUids& device() const noexcept { return device_; }

 private:
  explicit MemoryPlacement(hms::Binder& binder) : binder_(binder) {}
  static Result<std::unique_ptr<MemoryPlacement>> join(Runtime& runtime);

  hms::Binder& binder_;
  hms::ProcessDeviceUids device_;
  std::unique_ptr<hms::DeviceMemory> memory_;
};

}  // namespace mirrorcl::icd
