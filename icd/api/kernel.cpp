// SPDX-License-Identifier: Apache-2.0
// Kernel objects, their arguments and queries (OpenCL 3.0, 5.9).
#include "icd/core/kernel.h"

#include <algorithm>

#include "icd/core/context.h"
#include "icd/core/device.h"
#include "icd/core/machine.h"

using namespace mirrorcl::icd;

namespace {

// The device that a query is about: null means the only one of the kernel (5.9.3).
cl_int check_device(const _cl_kernel& kernel, cl_device_id device) {
  if (device == nullptr) return kernel.devices().size() == 1 ? CL_SUCCESS : CL_INVALID_DEVICE;
  MIRRORCL_VALID(device);
  MIRRORCL_GUARD(kernel.runs_on(device), CL_INVALID_DEVICE);
  return CL_SUCCESS;
}

// CL_KERNEL_EXEC_INFO_SVM_PTRS: any number of pointers; none takes back what an earlier call said.
cl_int set_svm_pointers(_cl_kernel& kernel, std::size_t size, const void* value) {
  MIRRORCL_GUARD(size % sizeof(void*) == 0, CL_INVALID_VALUE);
  MIRRORCL_GUARD(size == 0 || value != nullptr, CL_INVALID_VALUE);
  std::vector<void*> pointers(size / sizeof(void*));
  if (size != 0) std::memcpy(pointers.data(), value, size);
  kernel.set_svm_pointers(std::move(pointers));
  return CL_SUCCESS;
}

cl_int set_system_svm(_cl_kernel& kernel, std::size_t size, const void* value) {
  MIRRORCL_GUARD(value != nullptr && size == sizeof(cl_bool), CL_INVALID_VALUE);
  cl_bool used = CL_FALSE;
  std::memcpy(&used, value, sizeof used);
  MIRRORCL_GUARD(used == CL_TRUE || used == CL_FALSE, CL_INVALID_VALUE);
  kernel.set_system_svm(used == CL_TRUE);
  return CL_SUCCESS;
}

}  // namespace

extern "C" {

cl_kernel CL_API_CALL clCreateKernel(cl_program program, const char* kernel_name, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_kernel> {
    MIRRORCL_VALID(program);
    MIRRORCL_GUARD(kernel_name != nullptr, CL_INVALID_VALUE);
    auto [built, devices] = program->executable();
    MIRRORCL_GUARD(built != nullptr, CL_INVALID_PROGRAM_EXECUTABLE);
    const std::ptrdiff_t index = built->find(kernel_name);
    MIRRORCL_GUARD(index >= 0, CL_INVALID_KERNEL_NAME);
    return _cl_kernel::make(*program, std::move(built), std::move(devices), static_cast<std::size_t>(index));
  });
}

cl_int CL_API_CALL clCreateKernelsInProgram(cl_program program, cl_uint num_kernels, cl_kernel* kernels,
                                            cl_uint* num_kernels_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(program);
    const auto [built, devices] = program->executable();
    MIRRORCL_GUARD(built != nullptr, CL_INVALID_PROGRAM_EXECUTABLE);
    const auto count = static_cast<cl_uint>(built->image().kernels.size());
    MIRRORCL_GUARD(kernels == nullptr || num_kernels >= count, CL_INVALID_VALUE);
    for (cl_uint i = 0; kernels != nullptr && i < count; ++i)
      kernels[i] = _cl_kernel::make(*program, built, devices, i);
    if (num_kernels_ret != nullptr) *num_kernels_ret = count;
    return CL_SUCCESS;
  });
}

cl_kernel CL_API_CALL clCloneKernel(cl_kernel source_kernel, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_kernel> {
    MIRRORCL_VALID(source_kernel);
    return source_kernel->clone();
  });
}

cl_int CL_API_CALL clRetainKernel(cl_kernel kernel) {
  return retain_handle(kernel);
}
cl_int CL_API_CALL clReleaseKernel(cl_kernel kernel) {
  return release_handle(kernel);
}

cl_int CL_API_CALL clSetKernelArg(cl_kernel kernel, cl_uint arg_index, size_t arg_size, const void* arg_value) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(kernel);
    return kernel->set_argument(arg_index, arg_size, arg_value);
  });
}

cl_int CL_API_CALL clSetKernelArgSVMPointer(cl_kernel kernel, cl_uint arg_index, const void* arg_value) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(kernel);
    return kernel->set_svm_argument(arg_index, arg_value);
  });
}

cl_int CL_API_CALL clSetKernelExecInfo(cl_kernel kernel, cl_kernel_exec_info param_name, size_t param_value_size,
                                       const void* param_value) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(kernel);
    switch (param_name) {
      case CL_KERNEL_EXEC_INFO_SVM_PTRS:
        return set_svm_pointers(*kernel, param_value_size, param_value);
      case CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM:
        return set_system_svm(*kernel, param_value_size, param_value);
      default:
        return CL_INVALID_VALUE;
    }
  });
}

cl_int CL_API_CALL clGetKernelInfo(cl_kernel kernel, cl_kernel_info param_name, size_t param_value_size,
                                   void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(kernel);
    const Info info(param_value_size, param_value, param_value_size_ret);
    switch (param_name) {
      case CL_KERNEL_FUNCTION_NAME:
        return info.string(kernel->image().name);
      case CL_KERNEL_NUM_ARGS:
        return info.value<cl_uint>(static_cast<cl_uint>(kernel->image().arguments.size()));
      case CL_KERNEL_REFERENCE_COUNT:
        return info.value<cl_uint>(kernel->api_count());
      case CL_KERNEL_CONTEXT:
        return info.value<cl_context>(kernel->context());
      case CL_KERNEL_PROGRAM:
        return info.value<cl_program>(kernel->program());
      case CL_KERNEL_ATTRIBUTES:
        return info.string(kernel->image().attributes);
      default:
        return CL_INVALID_VALUE;
    }
  });
}

cl_int CL_API_CALL clGetKernelArgInfo(cl_kernel kernel, cl_uint arg_index, cl_kernel_arg_info param_name,
                                      size_t param_value_size, void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(kernel);
    MIRRORCL_GUARD(arg_index < kernel->image().arguments.size(), CL_INVALID_ARG_INDEX);
    const auto& argument = kernel->image().arguments[arg_index];
    const Info info(param_value_size, param_value, param_value_size_ret);
    switch (param_name) {
      case CL_KERNEL_ARG_ADDRESS_QUALIFIER:
        return info.value<cl_kernel_arg_address_qualifier>(argument.address_qualifier);
      case CL_KERNEL_ARG_ACCESS_QUALIFIER:
        return info.value<cl_kernel_arg_access_qualifier>(argument.access_qualifier);
      case CL_KERNEL_ARG_TYPE_QUALIFIER:
        return info.value<cl_kernel_arg_type_qualifier>(argument.type_qualifier);
      case CL_KERNEL_ARG_TYPE_NAME:
        return info.string(argument.type_name);
      case CL_KERNEL_ARG_NAME:
        return info.string(argument.name);
      default:
        return CL_INVALID_VALUE;
    }
  });
}

cl_int CL_API_CALL clGetKernelWorkGroupInfo(cl_kernel kernel, cl_device_id device, cl_kernel_work_group_info param_name,
                                            size_t param_value_size, void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(kernel);
    MIRRORCL_TRY(check_device(*kernel, device));
    const Info info(param_value_size, param_value, param_value_size_ret);
    switch (param_name) {
      case CL_KERNEL_WORK_GROUP_SIZE:
        return info.value<std::size_t>(kernel->max_work_group_size());
      case CL_KERNEL_COMPILE_WORK_GROUP_SIZE: {
        std::size_t sizes[3];
        std::ranges::copy(kernel->image().required_local_size, sizes);
        return info.value(sizes);
      }
      case CL_KERNEL_LOCAL_MEM_SIZE:
        return info.value<cl_ulong>(kernel->local_bytes());
      case CL_KERNEL_PREFERRED_WORK_GROUP_SIZE_MULTIPLE:
        return info.value<std::size_t>(vector_bytes() / sizeof(cl_float));
      case CL_KERNEL_PRIVATE_MEM_SIZE:
        return info.value<cl_ulong>(kernel->image().private_bytes);
      // Only for custom devices and built-in kernels (5.9.3).
      case CL_KERNEL_GLOBAL_WORK_SIZE:
        return CL_INVALID_VALUE;
      default:
        return CL_INVALID_VALUE;
    }
  });
}

cl_int CL_API_CALL clGetKernelSubGroupInfo(cl_kernel kernel, cl_device_id device, cl_kernel_sub_group_info param_name,
                                           size_t /*input_value_size*/, const void* /*input_value*/,
                                           size_t param_value_size, void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(kernel);
    MIRRORCL_TRY(check_device(*kernel, device));
    (void)param_name, (void)param_value_size, (void)param_value, (void)param_value_size_ret;
    return CL_INVALID_OPERATION;  // CL_DEVICE_MAX_NUM_SUB_GROUPS is 0
  });
}

}  // extern "C"
