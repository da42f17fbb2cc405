// SPDX-License-Identifier: Apache-2.0
// What the driver tells applications that it can do: extensions and OpenCL C features with their versions. The features
// are those whose macros the compiler defines (compiler/features.h); nothing is claimed here that it does not do.
#pragma once

#include <CL/cl.h>

#include <span>
#include <string>

namespace mirrorcl::icd {

std::span<const cl_name_version> platform_extensions() noexcept;
std::span<const cl_name_version> device_extensions() noexcept;
std::span<const cl_name_version> opencl_c_versions() noexcept;
std::span<const cl_name_version> opencl_c_features() noexcept;

bool has_opencl_c_feature(const char* name) noexcept;

// The names, separated by spaces.
std::string joined_names(std::span<const cl_name_version> list);

}  // namespace mirrorcl::icd
