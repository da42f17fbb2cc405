// SPDX-License-Identifier: Apache-2.0
// Platform queries (OpenCL 3.0, 4.1) and what the ICD loaders call (cl_khr_icd).
#include "icd/core/platform.h"

#include <time.h>

#include "icd/api/guard.h"
#include "icd/core/capabilities.h"
#include "icd/dispatch.h"

using namespace mirrorcl::icd;

namespace {

// For functions that take a platform of which there is only one: null is ours too where the specification leaves it to
// us.
bool is_ours_or_null(cl_platform_id platform) {
  return platform == nullptr || is_valid(platform);
}

cl_int get_platforms(cl_uint num_entries, cl_platform_id* platforms, cl_uint* num_platforms) noexcept {
  return call([&]() -> cl_int {
    MIRRORCL_GUARD(platforms == nullptr || num_entries != 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD(platforms != nullptr || num_platforms != nullptr, CL_INVALID_VALUE);
    if (platforms != nullptr) platforms[0] = &_cl_platform_id::get();
    if (num_platforms != nullptr) *num_platforms = 1;
    return CL_SUCCESS;
  });
}

}  // namespace

extern "C" {

MIRRORCL_EXPORT cl_int CL_API_CALL clIcdGetPlatformIDsKHR(cl_uint num_entries, cl_platform_id* platforms,
                                                          cl_uint* num_platforms) {
  return get_platforms(num_entries, platforms, num_platforms);
}

cl_int CL_API_CALL clGetPlatformIDs(cl_uint num_entries, cl_platform_id* platforms, cl_uint* num_platforms) {
  return get_platforms(num_entries, platforms, num_platforms);
}

cl_int CL_API_CALL clGetPlatformInfo(cl_platform_id platform, cl_platform_info param_name, size_t param_value_size,
                                     void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_GUARD(is_ours_or_null(platform), CL_INVALID_PLATFORM);
    const Info info(param_value_size, param_value, param_value_size_ret);
    switch (param_name) {
      case CL_PLATFORM_PROFILE:
        return info.string("FULL_PROFILE");
      case CL_PLATFORM_VERSION:
        return info.string("OpenCL 3.0 MirrorCL " MIRRORCL_VERSION);
      case CL_PLATFORM_NUMERIC_VERSION:
        return info.value<cl_version>(CL_MAKE_VERSION(3, 0, 0));
      case CL_PLATFORM_NAME:
        return info.string("MirrorCL");
      case CL_PLATFORM_VENDOR:
        return info.string("The MirrorCL project");
      case CL_PLATFORM_EXTENSIONS:
        return info.string(joined_names(platform_extensions()));
      case CL_PLATFORM_EXTENSIONS_WITH_VERSION:
        return info.array(platform_extensions());
      case CL_PLATFORM_ICD_SUFFIX_KHR:
        return info.string("MirrorCL");
      case CL_PLATFORM_HOST_TIMER_RESOLUTION: {
        timespec resolution{};
        MIRRORCL_GUARD(clock_getres(CLOCK_MONOTONIC, &resolution) == 0, CL_OUT_OF_RESOURCES);
        return info.value<cl_ulong>(static_cast<cl_ulong>(resolution.tv_nsec));
      }
      default:
        return CL_INVALID_VALUE;
    }
  });
}

cl_int CL_API_CALL clUnloadPlatformCompiler(cl_platform_id platform) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(platform);
    // A hint (5.8.7): the compiler is a process of its own, whose memory is not the application's.
    return CL_SUCCESS;
  });
}

cl_int CL_API_CALL clUnloadCompiler() {
  return CL_SUCCESS;
}

void* CL_API_CALL clGetExtensionFunctionAddressForPlatform(cl_platform_id platform, const char* name) {
  if (!is_valid(platform) || name == nullptr) return nullptr;
  return find_entry_point(name, false);
}

MIRRORCL_EXPORT void* CL_API_CALL clGetExtensionFunctionAddress(const char* name) {
  if (name == nullptr) return nullptr;
  // The loaders ask for it in this way before they have a platform (cl_khr_icd).
  if (std::string_view(name) == "clGetPlatformInfo") return find_entry_point(name, true);
  return find_entry_point(name, false);
}

void* CL_API_CALL clIcdGetFunctionAddressForPlatformKHR(cl_platform_id platform, const char* name) {
  if (!is_valid(platform) || name == nullptr) return nullptr;
  return find_entry_point(name, true);
}

cl_int CL_API_CALL clIcdSetPlatformDispatchDataKHR(cl_platform_id platform, void* data) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(platform);
    platform->set_loader_data(data);
    return CL_SUCCESS;
  });
}

}  // extern "C"
