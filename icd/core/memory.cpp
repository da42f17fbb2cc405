// SPDX-License-Identifier: Apache-2.0
#include "icd/core/memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "icd/core/allocation.h"
#include "icd/core/context.h"
#include "icd/core/memory_placement.h"
#include "icd/core/runtime.h"

using mirrorcl::ScopedLock;
using mirrorcl::icd::ClResult;
using mirrorcl::icd::Runtime;

namespace {

constexpr cl_mem_flags kAccess = CL_MEM_READ_WRITE | CL_MEM_READ_ONLY | CL_MEM_WRITE_ONLY;
constexpr cl_mem_flags kHostAccess = CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_WRITE_ONLY | CL_MEM_HOST_NO_ACCESS;
constexpr cl_mem_flags kHostPointer = CL_MEM_USE_HOST_PTR | CL_MEM_ALLOC_HOST_PTR | CL_MEM_COPY_HOST_PTR;

}  // namespace

_cl_mem::_cl_mem(_cl_context& context) noexcept : Object(context.dispatch_data()), context_(&context) {}

_cl_mem::~_cl_mem() {
  // The memory is still there: the application may look at it from the callback (5.5.1).
  for (auto callback = destructor_callbacks_.rbegin(); callback != destructor_callbacks_.rend(); ++callback) {
    callback->function(this, callback->user_data);
  }
  if (storage_owner_ != nullptr) mirrorcl::icd::MemoryPlacement::free(*storage_owner_, address_);
}

ClResult<_cl_mem*> _cl_mem::make_buffer(_cl_context& context, Runtime& runtime,
                                        mirrorcl::icd::BufferDescription description) {
  std::byte* address = static_cast<std::byte*>(description.host_ptr);
  const bool in_place = (description.flags & CL_MEM_USE_HOST_PTR) != 0;
  if (!in_place) {
    auto storage = mirrorcl::icd::allocate(
        runtime, {.devices = context.devices(), .bytes = description.size, .targets = description.targets});
    if (!storage) return tl::unexpected(storage.error());
    address = static_cast<std::byte*>(*storage);
    if ((description.flags & CL_MEM_COPY_HOST_PTR) != 0) std::memcpy(address, description.host_ptr, description.size);
  }
  auto* memory = new _cl_mem(context);
  memory->flags_ = description.flags;
  memory->size_ = description.size;
  memory->address_ = address;
  memory->properties_ = std::move(description.properties);
  if (in_place) {
    memory->uses_svm_pointer_ = runtime.allocator().find(address).has_value();
  } else {
    memory->storage_owner_ = &runtime;
  }
  return memory;
}

_cl_mem* _cl_mem::make_sub_buffer(_cl_mem& parent, cl_mem_flags flags, const cl_buffer_region& region) {
  auto* memory = new _cl_mem(*parent.context());
  memory->parent_ = mirrorcl::icd::Attached<_cl_mem>(&parent);
  // What is not given is inherited (5.2.1.1); the host pointer flags always are.
  memory->flags_ = ((flags & kAccess) != 0 ? flags & kAccess : parent.flags_ & kAccess) |
                   ((flags & kHostAccess) != 0 ? flags & kHostAccess : parent.flags_ & kHostAccess) |
                   (parent.flags_ & kHostPointer);
  memory->size_ = region.size;
  memory->origin_ = region.origin;
  memory->address_ = parent.address_ + region.origin;
  memory->uses_svm_pointer_ = parent.uses_svm_pointer_;
  return memory;
}

cl_uint _cl_mem::map_count() const {
  ScopedLock lock(mutex_);
  return static_cast<cl_uint>(mappings_.size());
}

void _cl_mem::add_mapping(const void* pointer) {
  ScopedLock lock(mutex_);
  mappings_.push_back(pointer);
}

bool _cl_mem::remove_mapping(const void* pointer) {
  ScopedLock lock(mutex_);
  const auto found = std::find(mappings_.begin(), mappings_.end(), pointer);
  if (found == mappings_.end()) return false;
  mappings_.erase(found);
  return true;
}

void _cl_mem::add_destructor_callback(mirrorcl::icd::MemoryDestructorCallback callback, void* user_data) {
  ScopedLock lock(mutex_);
  destructor_callbacks_.push_back({callback, user_data});
}
