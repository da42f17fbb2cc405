// SPDX-License-Identifier: Apache-2.0
#include "icd/core/capabilities.h"

#include <cstring>

#include "CL/cl_ext_mirrorcl.h"

namespace mirrorcl::icd {
namespace {

// Of the platform and of its one device; the device does not have the first.
constexpr cl_name_version kExtensions[] = {
    {CL_MAKE_VERSION(2, 0, 1), "cl_khr_icd"},
    {CL_MAKE_VERSION(1, 0, 0), "cl_khr_extended_versioning"},
    {CL_MAKE_VERSION(1, 0, 0), "cl_khr_byte_addressable_store"},
    {CL_MAKE_VERSION(1, 0, 0), "cl_khr_global_int32_base_atomics"},
    {CL_MAKE_VERSION(1, 0, 0), "cl_khr_global_int32_extended_atomics"},
    {CL_MAKE_VERSION(1, 0, 0), "cl_khr_local_int32_base_atomics"},
    {CL_MAKE_VERSION(1, 0, 0), "cl_khr_local_int32_extended_atomics"},
    {CL_MAKE_VERSION(1, 0, 0), "cl_khr_int64_base_atomics"},
    {CL_MAKE_VERSION(1, 0, 0), "cl_khr_int64_extended_atomics"},
    {CL_MAKE_VERSION(1, 0, 0), "cl_khr_fp64"},
    {CL_MAKE_VERSION(0, 2, 0), CL_MIRRORCL_STATISTICS_EXTENSION_NAME},
    {CL_MAKE_VERSION(0, 2, 0), CL_MIRRORCL_HMS_EXTENSION_NAME},
};

constexpr cl_name_version kVersions[] = {
    {CL_MAKE_VERSION(1, 0, 0), "OpenCL C"},
    {CL_MAKE_VERSION(1, 1, 0), "OpenCL C"},
    {CL_MAKE_VERSION(1, 2, 0), "OpenCL C"},
    {CL_MAKE_VERSION(3, 0, 0), "OpenCL C"},
};

constexpr cl_name_version kFeatures[] = {
    {CL_MAKE_VERSION(3, 0, 0), "__opencl_c_atomic_order_acq_rel"},
    {CL_MAKE_VERSION(3, 0, 0), "__opencl_c_atomic_order_seq_cst"},
    {CL_MAKE_VERSION(3, 0, 0), "__opencl_c_atomic_scope_device"},
    {CL_MAKE_VERSION(3, 0, 0), "__opencl_c_atomic_scope_all_devices"},
    {CL_MAKE_VERSION(3, 0, 0), "__opencl_c_fp64"},
    {CL_MAKE_VERSION(3, 0, 0), "__opencl_c_generic_address_space"},
    {CL_MAKE_VERSION(3, 0, 0), "__opencl_c_int64"},
};

}  // namespace

std::span<const cl_name_version> platform_extensions() noexcept {
  return kExtensions;
}
std::span<const cl_name_version> device_extensions() noexcept {
  return std::span(kExtensions).subspan(1);
}
std::span<const cl_name_version> opencl_c_versions() noexcept {
  return kVersions;
}
std::span<const cl_name_version> opencl_c_features() noexcept {
  return kFeatures;
}

bool has_opencl_c_feature(const char* name) noexcept {
  for (const cl_name_version& feature : kFeatures) {
    if (std::strcmp(feature.name, name) == 0) return true;
  }
  return false;
}

std::string joined_names(std::span<const cl_name_version> list) {
  std::string names;
  for (const cl_name_version& entry : list) {
    if (!names.empty()) names += ' ';
    names += entry.name;
  }
  return names;
}

}  // namespace mirrorcl::icd
