// SPDX-License-Identifier: Apache-2.0
// Memory for objects of one type that stays readable after an object is gone: it is used again only for objects of the
// same type, and late, so that a released handle is told from a live one by its tag without touching freed memory.
//
// Thread safety: all members.
#pragma once

#include <algorithm>
#include <cstddef>

#include "base/mutex.h"

namespace mirrorcl::icd {

class ObjectPool {
 public:
  // `header_size`: bytes at the start of an object that keep their contents while the memory is unused.
  constexpr ObjectPool(std::size_t object_size, std::size_t header_size) noexcept
      : header_size_(header_size), stride_(round_up(std::max(object_size, header_size + sizeof(void*)))) {}

  // Throws std::bad_alloc.
  void* take();
  void give_back(void* memory) noexcept;

 private:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kObjectsPerSlab = 64;
  // Unused memory is taken again only when there is more of it than this, the longest unused first.
  static constexpr std::size_t kQuarantine = 256;

  static constexpr std::size_t round_up(std::size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }
  void** link_of(void* memory) const noexcept {
    return reinterpret_cast<void**>(static_cast<std::byte*>(memory) + header_size_);
  }

  const std::size_t header_size_;
  const std::size_t stride_;
  Mutex mutex_;
  void* oldest_ MIRRORCL_GUARDED_BY(mutex_) = nullptr;
  void* newest_ MIRRORCL_GUARDED_BY(mutex_) = nullptr;
  std::size_t unused_ MIRRORCL_GUARDED_BY(mutex_) = 0;
  // Memory of the last slab that was never used.
  std::byte* slab_next_ MIRRORCL_GUARDED_BY(mutex_) = nullptr;
  std::byte* slab_end_ MIRRORCL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace mirrorcl::icd
