// SPDX-License-Identifier: Apache-2.0
#include "mirror/shared_memory.h"

#include "mirror/insist.h"

namespace mirrorcl::mirror {

int SharedMemory::adopt(Range range, void* buffer) noexcept {
  if (!on_host_) return 0;
  int error = device_.protect(range, Access::kRead);
  if (error == 0) error = device_.copy_out(range, buffer);
  if (error == 0) error = write_memory_file(pinned_, range.start, buffer, range.size);
  if (error == 0) error = device_.unmap(range);
  if (error != 0) {
    (void)punch_memory_file(pinned_, range.start, range.size);
    (void)device_.protect(range, Access::kReadWrite);
    return error;
  }
  error = map(range, Access::kReadWrite);
  if (error == 0) return 0;
  // The buffer has the contents still.
  (void)insist([&] { return device_.copy_in(range, buffer); });
  (void)device_.map(range, Access::kReadWrite);
  (void)punch_memory_file(pinned_, range.start, range.size);
  return error;
}

int SharedMemory::release(Range range, void* buffer) noexcept {
  if (!on_host_) return device_.zero_fill(range);
  int error = device_.unmap_file(range);
  if (error == 0) error = read_memory_file(pinned_, range.start, buffer, range.size);
  if (error == 0) error = device_.copy_in(range, buffer);
  if (error == 0) error = device_.map(range, Access::kReadWrite);
  if (error == 0) error = punch_memory_file(pinned_, range.start, range.size);
  return error;
}

int SharedMemory::map(Range range, Access access) noexcept {
  if (on_host_) return device_.map_file(range, pinned_, range.start, access);
  int error = device_.map(range, access);
  if (error == 0 && access == Access::kReadWrite) error = device_.protect(range, access);
  return error;
}

int SharedMemory::restrict(Range range, Access access) noexcept {
  if (on_host_) return map(range, access);
  return access == Access::kRead ? device_.protect(range, access) : 0;
}

int SharedMemory::unmap(Range range) noexcept {
  return on_host_ ? device_.unmap_file(range) : 0;
}

int SharedMemory::read(Range range, void* destination) const noexcept {
  return on_host_ ? read_memory_file(pinned_, range.start, destination, range.size)
                  : device_.copy_out(range, destination);
}

int SharedMemory::zero_fill(Range range) noexcept {
  return on_host_ ? fill_memory_file(pinned_, range.start, range.size) : device_.zero_fill(range);
}

int SharedMemory::clear(Range range) noexcept {
  return on_host_ ? punch_memory_file(pinned_, range.start, range.size) : device_.unmap(range);
}

int SharedMemory::drop(Range range) noexcept {
  if (!on_host_) return device_.unmap(range);
  const int error = device_.unmap_file(range);
  const int freed = clear(range);
  return error != 0 ? error : freed;
}

}  // namespace mirrorcl::mirror
