// SPDX-License-Identifier: Apache-2.0
#include "svm/memory_source.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/memory_file.h"
#include "device/cpu/cpu_device.h"

namespace mirrorcl::svm {

Result<std::unique_ptr<MemorySource>> MemorySource::open(Place place, std::span<device::CpuDevice* const> devices,
                                                         hms::HostMemory& host) {
  std::unique_ptr<MemorySource> source(new MemorySource(place, devices, host));
  // All devices are of one kind.
  const bool plain = devices.front()->capabilities().shares_page_tables;
  if (place.kind == Place::Kind::kNode) {
    if (!host.may_use(place.index)) {
      return fail(ErrorCode::kInvalidArgument,
                  "this process may not use NUMA node " + std::to_string(place.index) + ": see 'hms show'");
    }
    if (plain) return source;
    auto file = create_memory_file("mirrorcl-host-memory", window::kDeviceMemoryFileSize);
    if (!file) return tl::unexpected(file.error());
    source->node_file_.reset(*file);
    source->file_ = *file;
    return source;
  }
  if (place.index < 0 || static_cast<std::size_t>(place.index) >= devices.size()) {
    return fail(ErrorCode::kInvalidArgument, "there is no device " + std::to_string(place.index));
  }
  if (plain) return source;
  source->file_ = devices[static_cast<std::size_t>(place.index)]->memory_fd();
  if (source->file_ < 0) {
    return fail(ErrorCode::kNotSupported, "the device's memory cannot be mapped by the application");
  }
  return source;
}

std::uint64_t MemorySource::free_bytes(std::uint64_t taken) const noexcept {
  std::uint64_t size = 0;
  if (place_.kind == Place::Kind::kDevice) {
    size = devices_[static_cast<std::size_t>(place_.index)]->capabilities().memory_size;
  } else {
    // Bound memory of which there is not enough would end the process at its first touch.
    size = host_.free_bytes(place_.index);
    if (file_ >= 0) taken -= std::min(taken, memory_file_in_use(file_));
  }
  return size - std::min(size, taken);
}

Result<void> MemorySource::back(mirror::Range range) {
  void* start = reinterpret_cast<void*>(range.start);
  if (file_ < 0) {
    if (::mprotect(start, range.size, PROT_READ | PROT_WRITE) == 0) return {};
    return fail_errno("cannot use reserved address space (vm.overcommit_memory=2?)", errno);
  }
  void* mapped = ::mmap(start, range.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file_,
                        static_cast<off_t>(range.start));
  if (mapped == MAP_FAILED) return fail_errno("cannot map device memory", errno);
  return share(range);
}

Result<void> MemorySource::share(mirror::Range range) {
  for (auto device = devices_.begin(); device != devices_.end(); ++device) {
    auto shared = (*device)->share_file(file_, range);
    if (shared) continue;
    while (device != devices_.begin()) (void)(*--device)->unshare(range);
    return shared;
  }
  return {};
}

Result<void> MemorySource::bind(mirror::Range range) {
  if (place_.kind != Place::Kind::kNode) return {};
  const int error = host_.set_policy({range.start, range.end()}, {hms::HostPolicy::Mode::kBind, {&place_.index, 1}});
  if (error == 0) return {};
  const auto code = error == -EPERM ? ErrorCode::kNotSupported : ErrorCode::kSystem;
  return fail(code, "memory cannot be taken from NUMA node " + std::to_string(place_.index) + ": error " +
                        std::to_string(-error) + (error == -EPERM ? ", the container forbids mbind()" : ""));
}

bool MemorySource::discard(mirror::Range range) noexcept {
  if (file_ < 0) return ::madvise(reinterpret_cast<void*>(range.start), range.size, MADV_DONTNEED) == 0;
  errno = -punch_memory_file(file_, range.start, range.size);
  return errno == 0;
}

void MemorySource::visit_resident(mirror::Range range, const std::function<void(mirror::Range)>& visit) const {
  if (file_ < 0) return;
  for (std::uint64_t address = range.start; address < range.end();) {
    // Nobody uses the file's own position.
    const off_t data = ::lseek(file_, static_cast<off_t>(address), SEEK_DATA);
    if (data < 0 || static_cast<std::uint64_t>(data) >= range.end()) return;
    const off_t hole = ::lseek(file_, data, SEEK_HOLE);
    const auto start = static_cast<std::uint64_t>(data);
    const std::uint64_t end = hole < 0 ? start + window::kPageSize : static_cast<std::uint64_t>(hole);
    visit({start, std::min(end, range.end()) - start});
    address = end;
  }
}

}  // namespace mirrorcl::svm
