// SPDX-License-Identifier: Apache-2.0
// Samplers (OpenCL 3.0, 5.7). The device has no images, so none can be made: CL_INVALID_OPERATION, and no handle is
// ever valid.
#include <CL/cl.h>

#include "icd/api/guard.h"
#include "icd/core/context.h"

using namespace mirrorcl::icd;

extern "C" {

cl_sampler CL_API_CALL clCreateSampler(cl_context context, cl_bool /*normalized_coords*/,
                                       cl_addressing_mode /*addressing_mode*/, cl_filter_mode /*filter_mode*/,
                                       cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_sampler> {
    MIRRORCL_VALID(context);
    return ClError{CL_INVALID_OPERATION};
  });
}

cl_sampler CL_API_CALL clCreateSamplerWithProperties(cl_context context,
                                                     const cl_sampler_properties* /*sampler_properties*/,
                                                     cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_sampler> {
    MIRRORCL_VALID(context);
    return ClError{CL_INVALID_OPERATION};
  });
}

cl_int CL_API_CALL clRetainSampler(cl_sampler /*sampler*/) {
  return CL_INVALID_SAMPLER;
}
cl_int CL_API_CALL clReleaseSampler(cl_sampler /*sampler*/) {
  return CL_INVALID_SAMPLER;
}

cl_int CL_API_CALL clGetSamplerInfo(cl_sampler /*sampler*/, cl_sampler_info /*param_name*/, size_t /*param_value_size*/,
                                    void* /*param_value*/, size_t* /*param_value_size_ret*/) {
  return CL_INVALID_SAMPLER;
}

}  // extern "C"
