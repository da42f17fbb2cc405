// SPDX-License-Identifier: Apache-2.0
// Shared mappings of files (and of memfds, shared memory segments and shared anonymous memory, which are files to the
// kernel) are mapped into the device from the same file: one copy, in the page cache, for device, application and
// read(2). Nothing migrates, and no fault comes; whether the application's mapping is still the same is compared before
// each launch.
#include <errno.h>

#include <algorithm>

#include "base/log.h"
#include "mirror/mapped_file.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

// With `devices`, and with those that map files there already. Nothing: the file cannot be shared, and the reason has
// been told.
std::optional<Verdict> Migrator::share_file(DeviceSet devices, std::uint64_t address, Access access,
                                            const MappingInfo& mapping) noexcept {
  if (!mapping.shared_file() || (access != Access::kRead && !mapping.writable())) return std::nullopt;
  if (std::find(refused_files_.begin(), refused_files_.end(), mapping.file) != refused_files_.end())
    return std::nullopt;
  const MappedFile file = open_mapped_file(space_, mapping);
  if (file.error != 0) return refuse_file(address, mapping, "no descriptor of it can be had", file.error);
  // Behind the end of the file there is nothing, for the application too. It may grow.
  const std::uint64_t unit = mapping.page_size;
  const std::uint64_t left = file.size > mapping.file_offset ? file.size - mapping.file_offset : 0;
  const std::uint64_t size = std::min((left + unit - 1) / unit * unit, mapping.range.size);
  if (address - mapping.range.start >= size) return Verdict{Outcome::kFailed, device::FaultKind::kInvalidAddress};
  const Range range{mapping.range.start, size};
  blocks_.for_each(range, [&](Block& block) {
    drop_snapshots(block, PageMask(block.pages(range)));
    blocks_.remove_if_empty(block);
  });
  devices |= watch_.devices_of(range);
  // Before the devices go on: what the application does next is compared with it.
  if (!watch_.add({range, mapping.protection, mapping.file, mapping.file_offset, devices})) {
    unmap_file(range, devices);  // an older mapping of it, if any
    return std::nullopt;
  }
  count_replay();
  counters_.add(&Statistics::shared_file_mappings);
  const Access granted = mapping.writable() ? Access::kReadWrite : Access::kRead;
  for (AttachedDevice& device : devices_) {
    if ((devices & device.set()) == 0) continue;
    const int error = on_device([&] { return device->map_file(range, file.fd.get(), mapping.file_offset, granted); });
    if (error == 0) continue;
    end_sharing(range);
    return refuse_file(address, mapping, "a device cannot map it", error);
  }
  return Verdict{Outcome::kDone};
}

std::nullopt_t Migrator::refuse_file(std::uint64_t address, const MappingInfo& mapping, const char* reason,
                                     int error) noexcept {
  log_warning(
      "the file mapped at {:#x} cannot be shared with the device: {} (error {}); the device gets read-only copies of "
      "it",
      address, reason, -error);
  refused_files_[next_refused_file_++ % refused_files_.size()] = mapping.file;
  return std::nullopt;
}

void Migrator::unmap_file(Range range, DeviceSet devices) noexcept {
  for (AttachedDevice& device : devices_) {
    if ((devices & device.set()) == 0) continue;
    const int error = on_device([&] { return device->unmap_file(range); });
    if (error != 0) log_error("a device keeps a file at {:#x}-{:#x}: error {}", range.start, range.end(), -error);
  }
}

// `range` is device memory again for `devices`, wherever a file was mapped.
void Migrator::end_sharing(Range range, DeviceSet devices) noexcept {
  for (std::size_t i = 0; watch_.has_files() && i < watch_.size();) {
    const LayoutWatch::Span span = watch_.at(i);
    std::uint64_t start = std::max(range.start, span.range.start);
    std::uint64_t end = std::min(range.end(), span.range.end());
    if ((span.devices & devices) == 0 || start >= end) {
      ++i;
      continue;
    }
    if (watch_.size() == LayoutWatch::kMaxSpans) {  // no room for what would be left of it
      start = span.range.start;
      end = span.range.end();
    }
    LayoutWatch::Span left = span;
    left.range = {start, end - start};
    left.file_offset += start - span.range.start;
    left.devices = static_cast<DeviceSet>(span.devices & ~devices);
    unmap_file(left.range, static_cast<DeviceSet>(span.devices & devices));
    watch_.remove(left.range);
    if (left.devices != 0 && !watch_.add(left)) unmap_file(left.range, left.devices);
  }
}

}  // namespace mirrorcl::mirror
