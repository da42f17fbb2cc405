// SPDX-License-Identifier: Apache-2.0
// Devices (OpenCL 3.0, 4.2 and 4.3). What clGetDeviceInfo answers is in device_info.cpp.
#include "icd/core/device.h"

#include <time.h>

#include <algorithm>
#include <span>

#include "icd/api/guard.h"
#include "icd/core/platform.h"

using namespace mirrorcl::icd;

namespace {

constexpr cl_device_type kKnownTypes = CL_DEVICE_TYPE_DEFAULT | CL_DEVICE_TYPE_CPU | CL_DEVICE_TYPE_GPU |
                                       CL_DEVICE_TYPE_ACCELERATOR | CL_DEVICE_TYPE_CUSTOM;

// The clock of profiling times, for host and device (CLOCK_MONOTONIC), in nanoseconds.
cl_ulong timer_now() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<cl_ulong>(now.tv_sec) * 1'000'000'000 + static_cast<cl_ulong>(now.tv_nsec);
}

}  // namespace

extern "C" {

cl_int CL_API_CALL clGetDeviceIDs(cl_platform_id platform, cl_device_type device_type, cl_uint num_entries,
                                  cl_device_id* devices, cl_uint* num_devices) {
  return call([&]() -> cl_int {
    MIRRORCL_GUARD(platform == nullptr || is_valid(platform), CL_INVALID_PLATFORM);
    MIRRORCL_GUARD(device_type == CL_DEVICE_TYPE_ALL || (device_type != 0 && (device_type & ~kKnownTypes) == 0),
                   CL_INVALID_DEVICE_TYPE);
    MIRRORCL_GUARD(devices == nullptr || num_entries != 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD(devices != nullptr || num_devices != nullptr, CL_INVALID_VALUE);
    std::span<_cl_device_id> found = _cl_platform_id::get().devices();
    // There is one default device; all are CPUs.
    if ((device_type & CL_DEVICE_TYPE_CPU) == 0) found = found.first((device_type & CL_DEVICE_TYPE_DEFAULT) != 0);
    if (num_devices != nullptr) *num_devices = static_cast<cl_uint>(found.size());
    MIRRORCL_GUARD(!found.empty(), CL_DEVICE_NOT_FOUND);
    for (std::size_t i = 0; devices != nullptr && i < std::min<std::size_t>(num_entries, found.size()); ++i) {
      devices[i] = &found[i];
    }
    return CL_SUCCESS;
  });
}

// A root device is not counted (4.3): its reference count stays 1.
cl_int CL_API_CALL clRetainDevice(cl_device_id device) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(device);
    return CL_SUCCESS;
  });
}

cl_int CL_API_CALL clReleaseDevice(cl_device_id device) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(device);
    return CL_SUCCESS;
  });
}

cl_int CL_API_CALL clCreateSubDevices(cl_device_id in_device, const cl_device_partition_property* properties,
                                      cl_uint num_devices, cl_device_id* out_devices, cl_uint* num_devices_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(in_device);
    MIRRORCL_GUARD(properties != nullptr && properties[0] != 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD(out_devices != nullptr || num_devices_ret != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD(out_devices == nullptr || num_devices != 0, CL_INVALID_VALUE);
    // "... or if values specified in properties are valid but not supported by the device" (4.3);
    // CL_DEVICE_PARTITION_PROPERTIES is empty.
    return CL_INVALID_VALUE;
  });
}

cl_int CL_API_CALL clGetDeviceAndHostTimer(cl_device_id device, cl_ulong* device_timestamp, cl_ulong* host_timestamp) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(device_timestamp != nullptr && host_timestamp != nullptr, CL_INVALID_VALUE);
    *device_timestamp = *host_timestamp = timer_now();
    return CL_SUCCESS;
  });
}

cl_int CL_API_CALL clGetHostTimer(cl_device_id device, cl_ulong* host_timestamp) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(host_timestamp != nullptr, CL_INVALID_VALUE);
    *host_timestamp = timer_now();
    return CL_SUCCESS;
  });
}

}  // extern "C"
