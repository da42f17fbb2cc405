// SPDX-License-Identifier: Apache-2.0
#include "icd/core/object_pool.h"

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace mirrorcl::icd {

void* ObjectPool::take() {
  ScopedLock lock(mutex_);
  if (unused_ > kQuarantine) {
    void* memory = oldest_;
    oldest_ = *link_of(memory);
    --unused_;
    ASAN_UNPOISON_MEMORY_REGION(memory, stride_);
    return memory;
  }
  if (slab_next_ == slab_end_) {
    // Slabs are never given back: a handle into them may be asked about at any time.
    const std::size_t size = stride_ * kObjectsPerSlab;
    slab_next_ = static_cast<std::byte*>(::operator new (size, std::align_val_t{kAlignment}));
    slab_end_ = slab_next_ + size;
  }
  void* memory = slab_next_;
  slab_next_ += stride_;
  return memory;
}

void ObjectPool::give_back(void* memory) noexcept {
  ScopedLock lock(mutex_);
  *link_of(memory) = nullptr;
  if (unused_ == 0) {
    oldest_ = memory;
  } else {
    *link_of(newest_) = memory;
  }
  newest_ = memory;
  ++unused_;
  // All but the header and the link: a use of the object's insides is an error that ASan reports.
  std::byte* inside = static_cast<std::byte*>(memory) + header_size_ + sizeof(void*);
  ASAN_POISON_MEMORY_REGION(inside, stride_ - header_size_ - sizeof(void*));
}

}  // namespace mirrorcl::icd
