// SPDX-License-Identifier: Apache-2.0
// What every OpenCL object is made of: the two words that the loaders read (cl_khr_icd 2.0), a type tag that tells a
// live handle from a dead or foreign one, and reference counts.
//
// An object has three counts.
//   API count       what clRetain.../clRelease... change and CL_..._REFERENCE_COUNT shows.
//   live count      one while the API count is not zero, and one for each Attached<T>: a child object that names this
//   one to the
//                   application (a queue its context, a kernel its program). While it is not zero the handle is valid,
//                   as the specification asks ("after the reference count becomes zero and all objects attached to it
//                   are released"). At zero the tag becomes kDeadTag, and the handle is invalid from then on; the
//                   object is told if it has a member on_handle_dead().
//   internal count  one while the live count is not zero, and one for each Ref<T>: commands in flight. The object lives
//   on,
//                   unseen by the application, until the last of them is done.
//
// The memory of a deleted object goes back to a pool of its type, not to malloc, so that the tag of a released handle
// can be read at any later time, and creating an event costs no malloc.
#pragma once

#include <CL/cl.h>
#include <CL/cl_icd.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "icd/core/object_pool.h"

namespace mirrorcl::icd {

// Defined in icd/dispatch.cpp from the one list of entry points.
extern const _cl_icd_dispatch kDispatch;

inline constexpr std::uint32_t kDeadTag = 0xdead'c10b;

// One tag and one "invalid handle" code per handle type.
template <typename Handle>
struct HandleTraits;

#define MIRRORCL_HANDLE(handle, tag_value, error)    \
  template <>                                        \
  struct HandleTraits<handle> {                      \
    static constexpr std::uint32_t kTag = tag_value; \
    static constexpr cl_int kInvalid = error;        \
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

// The first words of every object, whatever its type. Never moves, and stays readable after the object is gone.
struct ObjectHeader {
  const _cl_icd_dispatch* dispatch;
  void* dispatch_data;
  std::atomic<std::uint32_t> tag;
  std::atomic<cl_uint> api_count;
  std::atomic<std::uint32_t> live_count;
  std::atomic<std::uint32_t> internal_count;
};

// Base of struct _cl_context and its kin. T is the handle's struct, e.g. `struct _cl_context : Object<_cl_context>`.
// Not polymorphic: the dispatch pointer must be the first word. Made with `new`, which throws std::bad_alloc; ended by
// its counts only.
template <typename T>
class Object {
 public:
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  static void* operator new(std::size_t /*size*/) { return pool().take(); }
  static void operator delete(void* memory) noexcept {
    // Again, because a compiler may drop stores to an object whose life ends.
    static_cast<ObjectHeader*>(memory)->tag.store(kDeadTag, std::memory_order_relaxed);
    pool().give_back(memory);
  }

  // clRetain...: the caller has validated the handle.
  void api_retain() noexcept {
    if (header_.api_count.fetch_add(1, std::memory_order_relaxed) == 0) attach();
  }
  // clRelease...: the caller has validated the handle. Returns false, and does nothing, if the API count is zero
  // already (the object is only alive through its children).
  bool api_release() noexcept {
    cl_uint count = header_.api_count.load(std::memory_order_relaxed);
    do {
      if (count == 0) return false;
    } while (!header_.api_count.compare_exchange_weak(count, count - 1, std::memory_order_acq_rel));
    if (count == 1) detach();
    return true;
  }
  cl_uint api_count() const noexcept { return header_.api_count.load(std::memory_order_relaxed); }

  // Use Attached<T>.
  void attach() noexcept { header_.live_count.fetch_add(1, std::memory_order_relaxed); }
  void detach() noexcept {
    if (header_.live_count.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    header_.tag.store(kDeadTag, std::memory_order_release);
    if constexpr (requires(T & object) { object.on_handle_dead(); }) static_cast<T*>(this)->on_handle_dead();
    release();
  }

  // Use Ref<T>.
  void retain() noexcept { header_.internal_count.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    if (header_.internal_count.fetch_sub(1, std::memory_order_acq_rel) == 1) delete static_cast<T*>(this);
  }

  // ICD 2: per-platform data of the loader, copied from the platform into every object.
  void* dispatch_data() const noexcept { return header_.dispatch_data; }

 protected:
  explicit Object(void* dispatch_data) noexcept : header_{&kDispatch, dispatch_data, HandleTraits<T*>::kTag, 1, 1, 1} {}
  ~Object() { header_.tag.store(kDeadTag, std::memory_order_relaxed); }

  void set_dispatch_data(void* data) noexcept { header_.dispatch_data = data; }

 private:
  static ObjectPool& pool() noexcept {
    static constinit ObjectPool the_pool{sizeof(T), sizeof(ObjectHeader)};
    return the_pool;
  }

  ObjectHeader header_;
};

// True if `handle` is a live object of its type that this driver made. A null or misaligned handle is not; a pointer
// that is not readable memory cannot be told (no driver can without handling SIGSEGV).
template <typename Handle>
bool is_valid(Handle handle) noexcept {
  if (handle == nullptr || reinterpret_cast<std::uintptr_t>(handle) % alignof(void*) != 0) return false;
  const auto* header = reinterpret_cast<const ObjectHeader*>(handle);
  return header->dispatch == &kDispatch && header->tag.load(std::memory_order_acquire) == HandleTraits<Handle>::kTag;
}

// A pointer that holds its object in the way of `Hold`, for as long as it lives.
template <typename T, typename Hold>
class Holder {
 public:
  Holder() = default;
  explicit Holder(T* object) noexcept : object_(object) {
    if (object_ != nullptr) Hold::take(*object_);
  }
  Holder(const Holder& other) noexcept : Holder(other.object_) {}
  Holder(Holder&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Holder& operator=(Holder other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Holder() {
    if (object_ != nullptr) Hold::drop(*object_);
  }

  T* get() const noexcept { return object_; }
  T& operator*() const noexcept { return *object_; }
  T* operator->() const noexcept { return object_; }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

struct HoldsObject {
  template <typename T>
  static void take(T& object) noexcept {
    object.retain();
  }
  template <typename T>
  static void drop(T& object) noexcept {
    object.release();
  }
};
struct HoldsHandle {
  template <typename T>
  static void take(T& object) noexcept {
    object.attach();
  }
  template <typename T>
  static void drop(T& object) noexcept {
    object.detach();
  }
};

// An internal reference to an Object: keeps it from being deleted, not its handle valid.
template <typename T>
using Ref = Holder<T, HoldsObject>;

// A child object's reference to the parent that it names to the application (CL_QUEUE_CONTEXT and the like): keeps the
// parent's handle valid, and through that the parent.
template <typename T>
using Attached = Holder<T, HoldsHandle>;

}  // namespace mirrorcl::icd
