// SPDX-License-Identifier: Apache-2.0
// What every OpenCL object is made of: the two words that the loaders read (cl_khr_icd 2.0), a type tag that tells a live
// handle from a dead or foreign one, and reference counts.
//
// An object has two counts. The API count is what clRetain.../clRelease... change and CL_..._REFERENCE_COUNT shows. While it is
// not zero it holds one internal reference; commands in flight and child objects hold internal references through Ref<T>,
// so that an object lives on, unseen by the application, until the last of them is done. When the API count reaches zero the tag
// becomes kDeadTag, and the handle is invalid from then on.
#pragma once

#include <CL/cl.h>
#include <CL/cl_icd.h>

#include <atomic>
#include <cstdint>
#include <utility>

namespace mirrorcl::icd {

// Defined in icd/dispatch.cpp from the one list of entry points.
extern const _cl_icd_dispatch kDispatch;

inline constexpr std::uint32_t kDeadTag = 0xdead'c10b;

// One tag and one "invalid handle" code per handle type.
template <typename Handle>
struct HandleTraits;

#define MIRRORCL_HANDLE(handle, tag_value, error)            \
  template <>                                                \
  struct HandleTraits<handle> {                              \
    static constexpr std::uint32_t kTag = tag_value;         \
    static constexpr cl_int kInvalid = error;                \
  }
MIRRORCL_HANDLE(cl_platform_id, 0xc1000001, CL_INVALID_PLATFORM);
MIRRORCL_HANDLE(cl_device_id, 0xc1000002, CL_INVALID_DEVICE);
MIRRORCL_HANDLE(cl_context, 0xc1000003, CL_INVALID_CONTEXT);
MIRRORCL_HANDLE(cl_command_queue, 0xc1000004, CL_INVALID_COMMAND_QUEUE);
MIRRORCL_HANDLE(cl_mem, 0xc1000005, CL_INVALID_MEM_OBJECT);
MIRRORCL_HANDLE(cl_program, 0xc1000006, CL_INVALID_PROGRAM);
MIRRORCL_HANDLE(cl_kernel, 0xc1000007, CL_INVALID_KERNEL);
MIRRORCL_HANDLE(cl_event, 0xc1000008, CL_INVALID_EVENT);
MIRRORCL_HANDLE(cl_sampler, 0xc1000009, CL_INVALID_SAMPLER);
#undef MIRRORCL_HANDLE

// Base of struct _cl_context and its kin. T is the handle's struct, e.g. `struct _cl_context : Object<_cl_context>`. Not
// polymorphic: the dispatch pointer must be the first word.
template <typename T>
class Object {
 public:
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  // clRetain...: the caller has validated the handle.
  void api_retain() noexcept { api_count_.fetch_add(1, std::memory_order_relaxed); }
  // clRelease...: returns true if this was the last one.
  bool api_release() noexcept {
    if (api_count_.fetch_sub(1, std::memory_order_acq_rel) != 1) return false;
    tag_.store(kDeadTag, std::memory_order_release);
    release();
    return true;
  }
  cl_uint api_count() const noexcept { return api_count_.load(std::memory_order_relaxed); }

  void retain() noexcept { internal_count_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    if (internal_count_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete static_cast<T*>(this);
  }

  // ICD 2: per-platform data of the loader, copied from the platform into every object.
  void* dispatch_data() const noexcept { return dispatch_data_; }

 protected:
  explicit Object(void* dispatch_data) noexcept : dispatch_(&kDispatch), dispatch_data_(dispatch_data) {}
  ~Object() { tag_.store(kDeadTag, std::memory_order_relaxed); }

  void set_dispatch_data(void* data) noexcept { dispatch_data_ = data; }

 private:
  template <typename Handle>
  friend bool is_valid(Handle handle) noexcept;

  const _cl_icd_dispatch* dispatch_;
  void* dispatch_data_;
  std::atomic<std::uint32_t> tag_{HandleTraits<T*>::kTag};
  std::atomic<cl_uint> api_count_{1};
  std::atomic<std::uint32_t> internal_count_{1};
};

// True if `handle` is a live object of its type that this driver made. A null or misaligned handle is not; a pointer that is not
// readable memory cannot be told (no driver can without handling SIGSEGV).
template <typename Handle>
bool is_valid(Handle handle) noexcept {
  if (handle == nullptr || reinterpret_cast<std::uintptr_t>(handle) % alignof(void*) != 0) return false;
  return handle->dispatch_ == &kDispatch && handle->tag_.load(std::memory_order_acquire) == HandleTraits<Handle>::kTag;
}

// An internal reference to an Object.
template <typename T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* object) noexcept : object_(object) {
    if (object_ != nullptr) object_->retain();
  }
  Ref(const Ref& other) noexcept : Ref(other.object_) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr) object_->release();
  }

  T* get() const noexcept { return object_; }
  T& operator*() const noexcept { return *object_; }
  T* operator->() const noexcept { return object_; }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

}  // namespace mirrorcl::icd
