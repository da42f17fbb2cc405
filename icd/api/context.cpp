// SPDX-License-Identifier: Apache-2.0
// Contexts (OpenCL 3.0, 4.4).
#include "icd/core/context.h"

#include <algorithm>

#include "icd/core/platform.h"

using namespace mirrorcl::icd;

namespace {

// Reads a property list up to and including its zero. CL_INVALID_PLATFORM, CL_INVALID_PROPERTY as 4.4 names them.
ClResult<std::vector<cl_context_properties>> read_properties(const cl_context_properties* properties) {
  std::vector<cl_context_properties> list;
  if (properties == nullptr) return list;
  bool seen_platform = false;
  bool seen_sync = false;
  const cl_context_properties* property = properties;
  for (; *property != 0; property += 2) {
    const cl_context_properties value = property[1];
    switch (property[0]) {
      case CL_CONTEXT_PLATFORM:
        MIRRORCL_GUARD(!seen_platform, CL_INVALID_PROPERTY);
        MIRRORCL_GUARD(is_valid(reinterpret_cast<cl_platform_id>(value)), CL_INVALID_PLATFORM);
        seen_platform = true;
        break;
      case CL_CONTEXT_INTEROP_USER_SYNC:
        MIRRORCL_GUARD(!seen_sync, CL_INVALID_PROPERTY);
        MIRRORCL_GUARD(value == CL_TRUE || value == CL_FALSE, CL_INVALID_PROPERTY);
        seen_sync = true;
        break;
      default:
        return ClError{CL_INVALID_PROPERTY};
    }
  }
  list.assign(properties, property + 1);
  return list;
}

}  // namespace

extern "C" {

cl_context CL_API_CALL clCreateContext(const cl_context_properties* properties, cl_uint num_devices,
                                       const cl_device_id* devices, ContextErrorCallback pfn_notify, void* user_data,
                                       cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_context> {
    MIRRORCL_GUARD(num_devices != 0 && devices != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD(pfn_notify != nullptr || user_data == nullptr, CL_INVALID_VALUE);
    auto list = read_properties(properties);
    if (!list) return ClError{list.error()};
    MIRRORCL_TRY(check_handles(num_devices, devices, CL_INVALID_VALUE));
    ContextDescription description{{}, std::move(*list), pfn_notify, user_data};
    for (cl_uint i = 0; i < num_devices; ++i) {  // duplicates are ignored (4.4)
      if (std::ranges::find(description.devices, devices[i]) == description.devices.end()) {
        description.devices.push_back(devices[i]);
      }
    }
    return _cl_context::make(std::move(description));
  });
}

cl_context CL_API_CALL clCreateContextFromType(const cl_context_properties* properties, cl_device_type device_type,
                                               ContextErrorCallback pfn_notify, void* user_data, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_context> {
    MIRRORCL_GUARD(pfn_notify != nullptr || user_data == nullptr, CL_INVALID_VALUE);
    auto list = read_properties(properties);
    if (!list) return ClError{list.error()};
    std::vector<cl_device_id> devices(mirrorcl::window::kMaxDevices);
    cl_uint count = 0;
    MIRRORCL_TRY(clGetDeviceIDs(&_cl_platform_id::get(), device_type, static_cast<cl_uint>(devices.size()),
                                devices.data(), &count));
    devices.resize(count);
    return _cl_context::make({std::move(devices), std::move(*list), pfn_notify, user_data});
  });
}

cl_int CL_API_CALL clRetainContext(cl_context context) {
  return retain_handle(context);
}
cl_int CL_API_CALL clReleaseContext(cl_context context) {
  return release_handle(context);
}

cl_int CL_API_CALL clGetContextInfo(cl_context context, cl_context_info param_name, size_t param_value_size,
                                    void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(context);
    const Info info(param_value_size, param_value, param_value_size_ret);
    switch (param_name) {
      case CL_CONTEXT_REFERENCE_COUNT:
        return info.value<cl_uint>(context->api_count());
      case CL_CONTEXT_NUM_DEVICES:
        return info.value<cl_uint>(static_cast<cl_uint>(context->devices().size()));
      case CL_CONTEXT_DEVICES:
        return info.list(context->devices());
      case CL_CONTEXT_PROPERTIES:
        return info.list(context->properties());
      default:
        return CL_INVALID_VALUE;
    }
  });
}

cl_int CL_API_CALL clSetContextDestructorCallback(cl_context context, ContextDestructorCallback pfn_notify,
                                                  void* user_data) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(context);
    MIRRORCL_GUARD(pfn_notify != nullptr, CL_INVALID_VALUE);
    context->add_destructor_callback(pfn_notify, user_data);
    return CL_SUCCESS;
  });
}

}  // extern "C"
