// SPDX-License-Identifier: Apache-2.0
// Memory objects. A buffer is a range of the application's own address space: memory of the SVM allocator, or, with
// CL_MEM_USE_HOST_PTR, the caller's. The device sees it at the same address, so the value of a kernel argument is
// simply address(), and reads, writes and maps by the host are plain memory accesses.
#pragma once

#include <CL/cl.h>

#include <atomic>
#include <cstddef>
#include <vector>

#include "base/mutex.h"
#include "hms/topology.h"
#include "icd/api/guard.h"
#include "icd/core/object.h"

namespace mirrorcl::icd {

class Runtime;

using MemoryDestructorCallback = void(CL_CALLBACK*)(cl_mem memory, void* user_data);

struct BufferDescription {
  cl_mem_flags flags = 0;  // as given
  std::size_t size = 0;    // bytes
  void* host_ptr = nullptr;
  std::vector<cl_mem_properties> properties;  // as given, with the terminating zero; empty if none were
  std::vector<hms::Uid> targets;              // where it may lie, best first; empty: not said
};

}  // namespace mirrorcl::icd

struct _cl_mem : mirrorcl::icd::Object<_cl_mem> {
 public:
  // A buffer (OpenCL 3.0, 5.2.1) of a description that complies with the specification. Copies the contents in for
  // CL_MEM_COPY_HOST_PTR.
  static mirrorcl::icd::ClResult<_cl_mem*> make_buffer(_cl_context& context, mirrorcl::icd::Runtime& runtime,
                                                       mirrorcl::icd::BufferDescription description);
  // A sub-buffer (5.2.1.1) of a buffer that is none itself; the region lies inside it.
  static _cl_mem* make_sub_buffer(_cl_mem& parent, cl_mem_flags flags, const cl_buffer_region& region);
  ~_cl_mem();

  _cl_context* context() const noexcept { return context_.get(); }
  cl_mem_object_type type() const noexcept { return CL_MEM_OBJECT_BUFFER; }
  cl_mem_flags flags() const noexcept { return flags_; }  // as given; of a sub-buffer with what it inherits
  std::size_t size() const noexcept { return size_; }     // bytes
  // Where the contents lie, for host and device alike.
  std::byte* address() const noexcept { return address_; }
  // CL_MEM_HOST_PTR: for CL_MEM_USE_HOST_PTR where the contents lie, else null.
  void* host_ptr() const noexcept { return (flags_ & CL_MEM_USE_HOST_PTR) != 0 ? address_ : nullptr; }
  _cl_mem* parent() const noexcept { return parent_.get(); }  // null unless a sub-buffer
  std::size_t origin() const noexcept { return origin_; }     // bytes from the start of the parent
  const std::vector<cl_mem_properties>& properties() const noexcept { return properties_; }
  // CL_MEM_USES_SVM_POINTER: made with CL_MEM_USE_HOST_PTR over memory of clSVMAlloc. Since our device has fine-grained
  // system SVM any host pointer might count; the conformance tests want this answer.
  bool uses_svm_pointer() const noexcept { return uses_svm_pointer_; }
  // Its memory, or its parent's, is the driver's own.
  bool is_allocated() const noexcept {
    return parent() != nullptr ? parent()->is_allocated() : storage_owner_ != nullptr;
  }

  // The regions that the application has mapped (CL_MEM_MAP_COUNT); pointers may be mapped several times.
  cl_uint map_count() const;
  void add_mapping(const void* pointer);
  // False if `pointer` is not that of a mapped region.
  bool remove_mapping(const void* pointer);

  // clSetMemObjectDestructorCallback: called in reverse order of registration when the object is deleted.
  void add_destructor_callback(mirrorcl::icd::MemoryDestructorCallback callback, void* user_data);

 private:
  explicit _cl_mem(_cl_context& context) noexcept;

  struct DestructorCallback {
    mirrorcl::icd::MemoryDestructorCallback function;
    void* user_data;
  };

  mirrorcl::icd::Attached<_cl_context> context_;
  mirrorcl::icd::Attached<_cl_mem> parent_;
  cl_mem_flags flags_ = 0;
  std::size_t size_ = 0;
  std::size_t origin_ = 0;
  std::byte* address_ = nullptr;
  mirrorcl::icd::Runtime* storage_owner_ = nullptr;  // not null: address_ is an allocation of ours
  bool uses_svm_pointer_ = false;
  std::vector<cl_mem_properties> properties_;
  mutable mirrorcl::Mutex mutex_;
  std::vector<const void*> mappings_ MIRRORCL_GUARDED_BY(mutex_);
  std::vector<DestructorCallback> destructor_callbacks_ MIRRORCL_GUARDED_BY(mutex_);
};
