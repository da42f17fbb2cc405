// SPDX-License-Identifier: Apache-2.0
// Memory for argument blocks and printf buffers in the window's heap region: fixed size classes in spans of 1 MiB,
// whole spans for what is larger. Allocation is on the path of every launch, so a class's free list is a plain stack.
// Bookkeeping lies in ordinary memory, out of the reach of kernels.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/mutex.h"
#include "device/cpu/range_allocator.h"
#include "device/window.h"

namespace mirrorcl::device {

class WindowHeap {
 public:
  WindowHeap();

  // 64-byte aligned; null when the region is used up.
  void* allocate(std::size_t bytes);
  // Null and foreign pointers are ignored.
  void free(void* memory);

  // Held over a fork, so that the child finds it unlocked.
  Mutex& mutex() noexcept MIRRORCL_RETURNS_LOCK(mutex_) { return mutex_; }

 private:
  static constexpr std::uint64_t kSpan = window::kMiB;
  static constexpr std::uint32_t kClassCount = 40;  // up to 128 KiB
  static constexpr std::uint8_t kLarge = 0xff;
  static std::uint32_t class_of(std::size_t bytes);
  static std::size_t class_size(std::uint32_t size_class);

  struct SizeClass {
    std::vector<void*> free;
    std::uint64_t fresh = 0;  // never handed out yet: [fresh, fresh_end)
    std::uint64_t fresh_end = 0;
  };

  Mutex mutex_;
  RangeAllocator spans_ MIRRORCL_GUARDED_BY(mutex_);
  std::array<SizeClass, kClassCount> classes_ MIRRORCL_GUARDED_BY(mutex_);
  // Per span: its size class + 1, kLarge, or 0.
  std::vector<std::uint8_t> span_class_ MIRRORCL_GUARDED_BY(mutex_);
};

}  // namespace mirrorcl::device
