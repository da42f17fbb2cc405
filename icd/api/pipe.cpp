// SPDX-License-Identifier: Apache-2.0
// Pipes (OpenCL 3.0, 5.4). CL_DEVICE_PIPE_SUPPORT is false: CL_INVALID_OPERATION, and no handle is ever a pipe's.
#include <CL/cl.h>

#include "icd/api/guard.h"
#include "icd/core/context.h"

using namespace mirrorcl::icd;

extern "C" {

cl_mem CL_API_CALL clCreatePipe(cl_context context, cl_mem_flags /*flags*/, cl_uint /*pipe_packet_size*/,
                                cl_uint /*pipe_max_packets*/, const cl_pipe_properties* /*properties*/,
                                cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_mem> {
    MIRRORCL_VALID(context);
    return ClError{CL_INVALID_OPERATION};
  });
}

cl_int CL_API_CALL clGetPipeInfo(cl_mem /*pipe*/, cl_pipe_info /*param_name*/, size_t /*param_value_size*/,
                                 void* /*param_value*/, size_t* /*param_value_size_ret*/) {
  return CL_INVALID_MEM_OBJECT;
}

}  // extern "C"
