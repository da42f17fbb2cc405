// SPDX-License-Identifier: Apache-2.0
// The dispatch table of cl_khr_icd 1 and the names of cl_khr_icd 2 (OpenCL Extension Specification, cl_khr_icd 2.0.1).
#pragma once

#include <CL/cl.h>
#include <CL/cl_icd.h>

#include <cstdint>
#include <string_view>

#include "CL/cl_ext_mirrorcl.h"

// Debian's headers predate cl_khr_icd 2.0.
#ifndef CL_ICD2_TAG_KHR
#define CL_ICD2_TAG_KHR ((intptr_t)0x4F50454E434C3331)
#endif

// On the functions that exports.map names.
#define MIRRORCL_EXPORT __attribute__((visibility("default")))

extern "C" {
MIRRORCL_EXPORT cl_int CL_API_CALL clIcdGetPlatformIDsKHR(cl_uint num_entries, cl_platform_id* platforms,
                                                          cl_uint* num_platforms);
// The address of any function that this driver implements, core functions included; null for any other name.
void* CL_API_CALL clIcdGetFunctionAddressForPlatformKHR(cl_platform_id platform, const char* name);
// The loader's data for the platform: the second word of every object made from then on.
cl_int CL_API_CALL clIcdSetPlatformDispatchDataKHR(cl_platform_id platform, void* data);

cl_int CL_API_CALL clGetMirrorStatisticsMIRRORCL(cl_device_id device, size_t size,
                                                 cl_mirror_statistics_mirrorcl* statistics, size_t* size_ret);

void* CL_API_CALL clSVMAllocWithPropertiesMIRRORCL(cl_context context,
                                                   const cl_svm_alloc_properties_mirrorcl* properties,
                                                   cl_svm_mem_flags flags, size_t size, cl_int* errcode_ret);
cl_int CL_API_CALL clGetMemoryTargetsMIRRORCL(cl_device_id device, cl_uint num_entries,
                                              cl_memory_target_info_mirrorcl* targets, cl_uint* num_targets);
cl_int CL_API_CALL clBindMemoryMIRRORCL(cl_device_id device, const void* pointer, size_t size,
                                        cl_memory_binding_mirrorcl binding, cl_uint num_targets, const cl_uint* targets,
                                        cl_ulong* pages_moved);
cl_int CL_API_CALL clGetMemoryResidencyMIRRORCL(cl_device_id device, const void* pointer, size_t size,
                                                cl_uint num_targets, const cl_uint* targets, cl_ulong* pages);
}

namespace mirrorcl::icd {

// The address of the function `name`, or null. `core`: also the functions of OpenCL 1.0 to 3.0, not only those of
// extensions.
void* find_entry_point(std::string_view name, bool core) noexcept;

}  // namespace mirrorcl::icd
