// SPDX-License-Identifier: Apache-2.0
// A context: the devices, properties and error callback that objects share.
#pragma once

#include <CL/cl.h>

#include <string>
#include <vector>

#include "base/mutex.h"
#include "icd/api/guard.h"
#include "icd/core/device.h"
#include "icd/core/object.h"

namespace mirrorcl::icd {

using ContextErrorCallback = void(CL_CALLBACK*)(const char* message, const void* private_info, std::size_t size,
                                                void* user_data);
using ContextDestructorCallback = void(CL_CALLBACK*)(cl_context context, void* user_data);

struct ContextDescription {
  std::vector<cl_device_id> devices;
  std::vector<cl_context_properties> properties;  // as given, with the terminating zero; empty if none were
  ContextErrorCallback error_callback = nullptr;
  void* user_data = nullptr;
};

}  // namespace mirrorcl::icd

struct _cl_context : mirrorcl::icd::Object<_cl_context> {
 public:
  // CL_DEVICE_NOT_AVAILABLE if a device cannot be had; the reason goes to the log and to the error callback.
  static mirrorcl::icd::ClResult<_cl_context*> make(mirrorcl::icd::ContextDescription description);
  ~_cl_context();

  const std::vector<cl_device_id>& devices() const noexcept { return description_.devices; }
  bool has_device(cl_device_id device) const noexcept;
  // The greatest CL_DEVICE_MAX_MEM_ALLOC_SIZE of the devices, in bytes.
  cl_ulong max_allocation() const;
  const std::vector<cl_context_properties>& properties() const noexcept { return description_.properties; }

  // Tells the application's error callback, if there is one. Call it without locks.
  void report_error(const std::string& message) const noexcept;

  // Called in reverse order of registration when the context is destroyed (OpenCL 3.0, 4.4).
  void add_destructor_callback(mirrorcl::icd::ContextDestructorCallback callback, void* user_data);

 private:
  explicit _cl_context(mirrorcl::icd::ContextDescription description);

  struct DestructorCallback {
    mirrorcl::icd::ContextDestructorCallback function;
    void* user_data;
  };

  const mirrorcl::icd::ContextDescription description_;
  mirrorcl::Mutex mutex_;
  std::vector<DestructorCallback> destructor_callbacks_ MIRRORCL_GUARDED_BY(mutex_);
};
