// SPDX-License-Identifier: Apache-2.0
// Memory objects. A buffer is a range of the application's own address space: memory of the SVM allocator, or, with
// CL_MEM_USE_HOST_PTR, the caller's. The device sees it at the same address, so the value of a kernel argument is
// simply address(), and reads, writes and maps by the host are plain memory accesses.
#pragma once

#include <CL/cl.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "icd/core/object.h"

struct _cl_mem : mirrorcl::icd::Object<_cl_mem> {
 public:
  template <typename T>
  using Ref = mirrorcl::icd::Ref<T>;

  // A buffer (OpenCL 3.0, 5.2.1). `flags` are valid and complete (an access flag is set); `properties` is the list as
  // given, with its terminating zero, or empty. `host_ptr` as the flags ask. The contents are copied in for
  // CL_MEM_COPY_HOST_PTR.
  static mirrorcl::Result<_cl_mem*> create_buffer(Ref<_cl_context> context, cl_mem_flags flags, std::size_t size,
                                                  void* host_ptr, std::vector<cl_mem_properties> properties);
  // A sub-buffer (5.2.1.1) of a buffer that is none itself. The region lies inside the parent; `flags` are complete.
  static mirrorcl::Result<_cl_mem*> create_sub_buffer(_cl_mem* parent, cl_mem_flags flags,
                                                      const cl_buffer_region& region);

  _cl_context* context() const noexcept { return context_.get(); }
  cl_mem_object_type type() const noexcept { return CL_MEM_OBJECT_BUFFER; }
  cl_mem_flags flags() const noexcept { return flags_; }
  std::size_t size() const noexcept { return size_; }  // bytes
  // Where the contents lie, for host and device alike.
  std::byte* address() const noexcept { return address_; }
  // CL_MEM_HOST_PTR: the pointer given with CL_MEM_USE_HOST_PTR (plus the origin for a sub-buffer), else null.
  void* host_ptr() const noexcept { return (flags_ & CL_MEM_USE_HOST_PTR) != 0 ? address_ : nullptr; }
  _cl_mem* parent() const noexcept { return parent_.get(); }  // null unless a sub-buffer
  std::size_t origin() const noexcept { return origin_; }     // bytes from the start of the parent
  const std::vector<cl_mem_properties>& properties() const noexcept { return properties_; }
  // CL_MEM_USES_SVM_POINTER: made with CL_MEM_USE_HOST_PTR over an SVM pointer. True for every pointer, since the
  // device has fine-grained system SVM, is what the specification would allow; we answer for clSVMAlloc's pointers
  // only, as tests expect.
  bool uses_svm_pointer() const noexcept { return uses_svm_pointer_; }

  cl_uint map_count() const noexcept { return map_count_.load(std::memory_order_relaxed); }
  void add_mapping(void* pointer, std::size_t bytes);
  // False if `pointer` was not returned by a map of this object.
  bool is_mapped(void* pointer) const;
  bool remove_mapping(void* pointer);

  // clSetMemObjectDestructorCallback: called in reverse order of registration when the object is deleted.
  void add_destructor_callback(void(CL_CALLBACK* callback)(cl_mem, void*), void* user_data);

  ~_cl_mem();

 private:
  explicit _cl_mem(Ref<_cl_context> context);

  Ref<_cl_context> context_;
  Ref<_cl_mem> parent_;
  cl_mem_flags flags_ = 0;
  std::size_t size_ = 0;
  std::size_t origin_ = 0;
  std::byte* address_ = nullptr;
  bool owns_storage_ = false;
  bool uses_svm_pointer_ = false;
  std::vector<cl_mem_properties> properties_;
  std::atomic<cl_uint> map_count_{0};
  mutable std::mutex mutex_;
  std::vector<std::pair<void*, std::size_t>> mappings_;                                    // guarded by mutex_
  std::vector<std::pair<void(CL_CALLBACK*)(cl_mem, void*), void*>> destructor_callbacks_;  // guarded by mutex_
};
