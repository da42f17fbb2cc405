// SPDX-License-Identifier: Apache-2.0
// Where coherent pages live, which application and device both map: in device memory, if the CPU can map it; else in
// host memory that the device maps, as a GPU behind PCIe maps pinned pages of its host. Either is a sparse file whose
// offset is the virtual address of the page.
//
// Locking: service thread only. Results are 0 or -errno; -EAGAIN means what it means in DeviceOperations.
#pragma once

#include "base/memory_file.h"
#include "base/unique_fd.h"
#include "device/window.h"
#include "mirror/device/operations.h"

namespace mirrorcl::mirror {

// Host memory for coherent pages of devices with private memory.
class PinnedHostMemory {
 public:
  Result<void> open() {
    auto file = create_memory_file("mirrorcl-pinned-memory", window::kDeviceMemoryFileSize);
    if (!file) return tl::unexpected<Error>(file.error());
    file_.reset(*file);
    return {};
  }
  void close() noexcept { file_.reset(); }
  int fd() const noexcept { return file_.get(); }

 private:
  UniqueFd file_;
};

// One device's way to shared pages. All ranges lie in one block.
class SharedMemory {
 public:
  SharedMemory(DeviceOperations& device, const PinnedHostMemory& pinned) noexcept
      : device_(device), pinned_(pinned.fd()), on_host_(!device.capabilities().memory_cpu_mappable) {}

  bool on_host() const noexcept { return on_host_; }
  // What the application maps.
  int fd() const noexcept { return on_host_ ? pinned_ : device_.memory_fd(); }

  // Device pages become shared ones, with the same contents; the device goes on. `buffer`: range.size bytes of pinned
  // memory. If it fails they are device pages still.
  int adopt(Range range, void* buffer) noexcept;
  // Shared pages, which the application does not map any more, become device pages with the same contents. If it fails
  // it can be repeated.
  int release(Range range, void* buffer) noexcept;

  // Lets the device use shared pages as `access` says.
  int map(Range range, Access access) noexcept;
  // The application's access has changed; a device that faults on memory finds out about more of it by itself.
  int restrict(Range range, Access access) noexcept;
  // The device may not use `range` any more; the contents stay.
  int unmap(Range range) noexcept;
  // Contents into pinned memory.
  int read(Range range, void* destination) const noexcept;
  // Zeros where the application has discarded the contents.
  int zero_fill(Range range) noexcept;
  // The contents are gone; the application and the device see zeros next, or fault to the mirror.
  int clear(Range range) noexcept;
  // The contents are gone, and the pages are not shared any more.
  int drop(Range range) noexcept;

 private:
  DeviceOperations& device_;
  int pinned_;
  bool on_host_;
};

}  // namespace mirrorcl::mirror
