// SPDX-License-Identifier: Apache-2.0
// Where memory lives, for the extension cl_mirrorcl_hms: the driver's devices in the process's topology, and joined to
// the process's hbind() (hms/process.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "hms/binder.h"
#include "hms/process.h"
#include "icd/core/runtime.h"
#include "svm/allocation_places.h"

namespace mirrorcl::icd {

class MemoryPlacement {
 public:
  // Has the driver's devices join when this process first asks for its binder, which starts them. Called once, when the
  // platform is made.
  static void announce();
  // Looks at the machine and joins the devices, in a thread of its own, so that nobody has to wait for it later.
  static void join_in_background();
  // The same now, if it has not been done; some tens of milliseconds then.
  static Result<MemoryPlacement*> get();

  // The target that SVM memory or a buffer's at `address` was allocated in; kNoUid if it is none, or nobody can tell.
  static hms::Uid allocated_target(const void* address);
  // Gives SVM memory or a buffer's back, and takes its policy with it.
  static void free(Runtime& runtime, void* pointer);

  // The placement if the devices have joined; null before. Never waits.
  static MemoryPlacement* if_joined() noexcept;

  hms::Binder& binder() noexcept { return binder_; }
  // A device and the memory that is best for it, as the topology has them.
  struct DeviceFigures {
    hms::Uid initiator;
    hms::Uid target;                      // its own memory; the ATS device's is the host's
    int node;                             // that the memory lies in; -1: not known
    std::optional<hms::Value> bandwidth;  // MiB/s
    std::optional<hms::Value> latency;    // ns
  };
  DeviceFigures figures(std::uint32_t index) const;

  // Where allocations can lie.
  const svm::AllocationPlaces& allocation_places() const noexcept { return *allocation_places_; }
  // The device and its memory in the topology. The ATS device has none of its own: kNoUid.
  const hms::ProcessDeviceUids& device(std::uint32_t index) const noexcept { return devices_[index].uids; }

 private:
  struct Device {
    hms::ProcessDeviceUids uids;
    std::unique_ptr<hms::DeviceMemory> memory;  // null: none of its own
  };

  explicit MemoryPlacement(hms::Binder& binder) : binder_(binder) {}
  static void join(hms::Binder& binder);
  Result<void> join_devices(Runtime& runtime);
  Result<void> join_device(Runtime& runtime, std::uint32_t index);
  Result<void> find_allocation_places();
  // Tells the mirror, which places pages by the topology, and by way of it other processes.
  void publish(Runtime& runtime);

  hms::Binder& binder_;
  std::vector<Device> devices_;
  std::unique_ptr<const svm::AllocationPlaces> allocation_places_;
};

}  // namespace mirrorcl::icd
