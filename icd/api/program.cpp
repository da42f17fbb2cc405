// SPDX-License-Identifier: Apache-2.0
// Programs (OpenCL 3.0, 5.8).
#include "icd/core/program.h"

#include <algorithm>
#include <span>

#include "icd/core/context.h"
#include "icd/core/host_worker.h"

using namespace mirrorcl::icd;
using mirrorcl::compiler::BuildKind;
using mirrorcl::compiler::Header;

namespace {

using BuildCallback = void(CL_CALLBACK*)(cl_program, void*);

// An optional list of devices: CL_INVALID_VALUE, CL_INVALID_DEVICE.
cl_int check_devices(const _cl_context& context, cl_uint num_devices, const cl_device_id* devices) {
  MIRRORCL_TRY(check_handles(num_devices, devices, CL_INVALID_VALUE));
  for (cl_uint i = 0; i < num_devices; ++i) MIRRORCL_GUARD(context.has_device(devices[i]), CL_INVALID_DEVICE);
  return CL_SUCCESS;
}

cl_int check_program(cl_program program, cl_uint num_devices, const cl_device_id* devices, BuildCallback callback,
                     const void* user_data) {
  MIRRORCL_VALID(program);
  MIRRORCL_TRY(check_handles(num_devices, devices, CL_INVALID_VALUE));
  for (cl_uint i = 0; i < num_devices; ++i) MIRRORCL_GUARD(program->set_of(devices[i]) != 0, CL_INVALID_DEVICE);
  MIRRORCL_GUARD(callback != nullptr || user_data == nullptr, CL_INVALID_VALUE);
  return CL_SUCCESS;
}

// Those of an optional list, else all that the program is for.
_cl_program::DeviceSet device_set(const _cl_program& program, cl_uint num_devices, const cl_device_id* devices) {
  if (devices == nullptr) return program.all_devices();
  _cl_program::DeviceSet set = 0;
  for (cl_uint i = 0; i < num_devices; ++i) set |= program.set_of(devices[i]);
  return set;
}

// Whether this driver can compile and link at all; says why not in the log (device.cpp).
cl_int check_compiler(const _cl_context& context, cl_int error) {
  for (cl_device_id device : context.devices()) MIRRORCL_GUARD(device->compiler_availability().has_value(), error);
  return CL_SUCCESS;
}

cl_int begin(_cl_program& program, BuildKind kind, const char* options, cl_int invalid_options,
             _cl_program::DeviceSet devices) {
  const cl_int code = program.begin(kind, options != nullptr ? options : "", devices);
  return code == CL_INVALID_VALUE ? invalid_options : code;
}

// Without a callback the call waits for `work`; with one it returns at once, and the callback tells when it is done.
template <typename Work>
cl_int finish(_cl_program& program, BuildCallback callback, void* user_data, Work work) {
  if (callback == nullptr) return work();
  build_thread().post([keep = Attached<_cl_program>(&program), callback, user_data, work = std::move(work)]() mutable {
    work();
    callback_thread().post([keep = std::move(keep), callback, user_data] { callback(keep.get(), user_data); });
  });
  return CL_SUCCESS;
}

std::string kernel_names(const BuiltProgram& built) {
  std::string names;
  for (const auto& kernel : built.image().kernels) {
    if (!names.empty()) names += ';';
    names += kernel.name;
  }
  return names;
}

// What is linked for a device.
struct LinkInput {
  cl_device_id device;
  _cl_program::Objects objects;  // one of each program
};

// For the devices of the list, or, without one, of the context, that have a compiled object or library of each program.
// CL_INVALID_OPERATION if that is none, or if one has only some of them (5.8.4).
ClResult<std::vector<LinkInput>> inputs_of(const std::vector<cl_device_id>& all, std::span<const cl_program> programs,
                                           const cl_device_id* list, cl_uint list_size) {
  std::vector<LinkInput> inputs;
  for (cl_device_id device : all) {
    if (list != nullptr && std::find(list, list + list_size, device) == list + list_size) continue;
    LinkInput input{device, {}};
    for (cl_program program : programs) {
      // Neither source nor an executable can be linked, nor what is still being compiled.
      auto object = program->set_of(device) != 0 ? program->build_state(device).object : nullptr;
      if (object) input.objects.push_back(std::move(object));
    }
    if (input.objects.empty()) continue;
    MIRRORCL_GUARD(input.objects.size() == programs.size(), CL_INVALID_OPERATION);
    inputs.push_back(std::move(input));
  }
  MIRRORCL_GUARD(!inputs.empty(), CL_INVALID_OPERATION);
  return inputs;
}

// Once for all devices that have the same objects.
cl_int link(_cl_program& program, const std::vector<LinkInput>& inputs, const std::string& options) {
  cl_int result = CL_SUCCESS;
  _cl_program::DeviceSet done = 0;
  for (const LinkInput& first : inputs) {
    if ((done & program.set_of(first.device)) != 0) continue;
    _cl_program::DeviceSet devices = 0;
    for (const LinkInput& input : inputs) {
      if (input.objects == first.objects) devices |= program.set_of(input.device);
    }
    if (const cl_int code = program.link(first.objects, options, devices); code != CL_SUCCESS) result = code;
    done |= devices;
  }
  return result;
}

// CL_PROGRAM_BINARIES: param_value is an array of destinations, one per device; null ones are skipped.
cl_int copy_binaries(const _cl_program& program, const Info& info) {
  const std::size_t count = program.devices().size();
  const std::size_t size = count * sizeof(unsigned char*);
  if (info.destination() != nullptr) {
    MIRRORCL_GUARD(info.size() >= size, CL_INVALID_VALUE);
    auto** destinations = static_cast<unsigned char**>(info.destination());
    for (std::size_t i = 0; i < count; ++i) {
      if (destinations[i] == nullptr) continue;
      const std::vector<std::byte> binary = program.binary(program.devices()[i]);
      if (!binary.empty()) std::memcpy(destinations[i], binary.data(), binary.size());
    }
  }
  info.set_size_ret(size);
  return CL_SUCCESS;
}

}  // namespace

extern "C" {

cl_program CL_API_CALL clCreateProgramWithSource(cl_context context, cl_uint count, const char** strings,
                                                 const size_t* lengths, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_program> {
    MIRRORCL_VALID(context);
    MIRRORCL_GUARD(count != 0 && strings != nullptr, CL_INVALID_VALUE);
    std::string source;
    for (cl_uint i = 0; i < count; ++i) {
      MIRRORCL_GUARD(strings[i] != nullptr, CL_INVALID_VALUE);
      if (lengths != nullptr && lengths[i] != 0) {
        source.append(strings[i], lengths[i]);
      } else {
        source.append(strings[i]);
      }
    }
    return _cl_program::from_source(*context, std::move(source));
  });
}

cl_program CL_API_CALL clCreateProgramWithBinary(cl_context context, cl_uint num_devices,
                                                 const cl_device_id* device_list, const size_t* lengths,
                                                 const unsigned char** binaries, cl_int* binary_status,
                                                 cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_program> {
    MIRRORCL_VALID(context);
    MIRRORCL_GUARD(num_devices != 0 && device_list != nullptr, CL_INVALID_VALUE);
    MIRRORCL_TRY(check_devices(*context, num_devices, device_list));
    MIRRORCL_GUARD(lengths != nullptr && binaries != nullptr, CL_INVALID_VALUE);
    for (cl_uint i = 0; i < num_devices; ++i) {
      if (lengths[i] != 0 && binaries[i] != nullptr) continue;
      if (binary_status != nullptr) binary_status[i] = CL_INVALID_VALUE;
      return ClError{CL_INVALID_VALUE};
    }
    std::vector<_cl_program::DeviceBinary> list;
    std::vector<std::size_t> place;  // of each entry in it: of a device that is named twice the first binary counts
    for (cl_uint i = 0; i < num_devices; ++i) {
      const auto named = std::ranges::find(list, device_list[i], &_cl_program::DeviceBinary::device);
      place.push_back(static_cast<std::size_t>(named - list.begin()));
      if (named == list.end()) list.push_back({device_list[i], std::as_bytes(std::span(binaries[i], lengths[i]))});
    }
    std::vector<cl_int> statuses(list.size());
    auto program = _cl_program::from_binaries(*context, list, statuses.data());
    for (cl_uint i = 0; binary_status != nullptr && i < num_devices; ++i) binary_status[i] = statuses[place[i]];
    return program;
  });
}

cl_program CL_API_CALL clCreateProgramWithBuiltInKernels(cl_context context, cl_uint num_devices,
                                                         const cl_device_id* device_list, const char* kernel_names,
                                                         cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_program> {
    MIRRORCL_VALID(context);
    MIRRORCL_GUARD(num_devices != 0 && device_list != nullptr, CL_INVALID_VALUE);
    MIRRORCL_TRY(check_devices(*context, num_devices, device_list));
    // There are no built-in kernels, so whatever name this holds is not one (5.8.1).
    MIRRORCL_GUARD(kernel_names != nullptr, CL_INVALID_VALUE);
    return ClError{CL_INVALID_VALUE};
  });
}

cl_program CL_API_CALL clCreateProgramWithIL(cl_context context, const void* il, size_t length, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_program> {
    MIRRORCL_VALID(context);
    MIRRORCL_GUARD(il != nullptr && length != 0, CL_INVALID_VALUE);
    return ClError{CL_INVALID_OPERATION};  // no device takes an intermediate language: CL_DEVICE_IL_VERSION is empty
  });
}

cl_int CL_API_CALL clRetainProgram(cl_program program) {
  return retain_handle(program);
}
cl_int CL_API_CALL clReleaseProgram(cl_program program) {
  return release_handle(program);
}

cl_int CL_API_CALL clSetProgramReleaseCallback(cl_program program, BuildCallback pfn_notify, void* /*user_data*/) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(program);
    MIRRORCL_GUARD(pfn_notify != nullptr, CL_INVALID_VALUE);
    return CL_INVALID_OPERATION;  // no device runs destructors of program scope variables (5.8.5)
  });
}

cl_int CL_API_CALL clSetProgramSpecializationConstant(cl_program program, cl_uint /*spec_id*/, size_t /*spec_size*/,
                                                      const void* spec_value) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(program);
    MIRRORCL_GUARD(spec_value != nullptr, CL_INVALID_VALUE);
    return CL_INVALID_OPERATION;  // no device takes an intermediate language (5.8.4)
  });
}

cl_int CL_API_CALL clBuildProgram(cl_program program, cl_uint num_devices, const cl_device_id* device_list,
                                  const char* options, BuildCallback pfn_notify, void* user_data) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_program(program, num_devices, device_list, pfn_notify, user_data));
    const _cl_program::DeviceSet devices = device_set(*program, num_devices, device_list);
    if (!program->has_executables(devices)) {
      MIRRORCL_TRY(check_compiler(*program->context(), CL_COMPILER_NOT_AVAILABLE));
    }
    MIRRORCL_TRY(begin(*program, BuildKind::kBuild, options, CL_INVALID_BUILD_OPTIONS, devices));
    return finish(*program, pfn_notify, user_data, [program, devices] { return program->build(devices); });
  });
}

cl_int CL_API_CALL clCompileProgram(cl_program program, cl_uint num_devices, const cl_device_id* device_list,
                                    const char* options, cl_uint num_input_headers, const cl_program* input_headers,
                                    const char** header_include_names, BuildCallback pfn_notify, void* user_data) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_program(program, num_devices, device_list, pfn_notify, user_data));
    MIRRORCL_GUARD((num_input_headers == 0) == (input_headers == nullptr), CL_INVALID_VALUE);
    MIRRORCL_GUARD((num_input_headers == 0) == (header_include_names == nullptr), CL_INVALID_VALUE);
    std::vector<Header> headers;
    for (cl_uint i = 0; i < num_input_headers; ++i) {
      MIRRORCL_VALID(input_headers[i]);
      MIRRORCL_GUARD(header_include_names[i] != nullptr, CL_INVALID_VALUE);
      MIRRORCL_GUARD(input_headers[i]->has_source(), CL_INVALID_OPERATION);
      headers.push_back({header_include_names[i], input_headers[i]->source()});
    }
    MIRRORCL_GUARD(program->has_source(), CL_INVALID_OPERATION);
    MIRRORCL_TRY(check_compiler(*program->context(), CL_COMPILER_NOT_AVAILABLE));
    const _cl_program::DeviceSet devices = device_set(*program, num_devices, device_list);
    MIRRORCL_TRY(begin(*program, BuildKind::kCompile, options, CL_INVALID_COMPILER_OPTIONS, devices));
    return finish(*program, pfn_notify, user_data,
                  [program, devices, headers = std::move(headers)] { return program->compile(headers, devices); });
  });
}

cl_program CL_API_CALL clLinkProgram(cl_context context, cl_uint num_devices, const cl_device_id* device_list,
                                     const char* options, cl_uint num_input_programs, const cl_program* input_programs,
                                     BuildCallback pfn_notify, void* user_data, cl_int* errcode_ret) {
  // A link that fails, too, makes a program: its build log tells why.
  cl_int outcome = CL_SUCCESS;
  cl_program linked = create(errcode_ret, [&]() -> ClResult<cl_program> {
    MIRRORCL_VALID(context);
    MIRRORCL_TRY(check_devices(*context, num_devices, device_list));
    MIRRORCL_GUARD(num_input_programs != 0 && input_programs != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD(pfn_notify != nullptr || user_data == nullptr, CL_INVALID_VALUE);
    for (cl_uint i = 0; i < num_input_programs; ++i) {
      MIRRORCL_VALID(input_programs[i]);
      MIRRORCL_GUARD(input_programs[i]->context() == context, CL_INVALID_PROGRAM);
    }
    auto inputs =
        inputs_of(context->devices(), std::span(input_programs, num_input_programs), device_list, num_devices);
    if (!inputs) return ClError{inputs.error()};
    MIRRORCL_TRY(check_compiler(*context, CL_LINKER_NOT_AVAILABLE));
    std::vector<cl_device_id> devices;
    for (const LinkInput& input : *inputs) devices.push_back(input.device);
    cl_program program = _cl_program::empty(*context, std::move(devices));
    const cl_int begun = begin(*program, BuildKind::kLink, options, CL_INVALID_LINKER_OPTIONS, program->all_devices());
    if (begun != CL_SUCCESS) {
      program->api_release();
      return ClError{begun};
    }
    const std::string link_options = options != nullptr ? options : "";
    outcome = finish(*program, pfn_notify, user_data, [program, inputs = std::move(*inputs), link_options] {
      return link(*program, inputs, link_options);
    });
    return program;
  });
  if (linked != nullptr && errcode_ret != nullptr) *errcode_ret = outcome;
  return linked;
}

cl_int CL_API_CALL clGetProgramInfo(cl_program program, cl_program_info param_name, size_t param_value_size,
                                    void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(program);
    const Info info(param_value_size, param_value, param_value_size_ret);
    const auto& devices = program->devices();
    switch (param_name) {
      case CL_PROGRAM_REFERENCE_COUNT:
        return info.value<cl_uint>(program->api_count());
      case CL_PROGRAM_CONTEXT:
        return info.value<cl_context>(program->context());
      case CL_PROGRAM_NUM_DEVICES:
        return info.value<cl_uint>(static_cast<cl_uint>(devices.size()));
      case CL_PROGRAM_DEVICES:
        return info.list(devices);
      case CL_PROGRAM_SOURCE:
        return info.string(program->source());
      case CL_PROGRAM_IL:
        return info.bytes(nullptr, 0);
      case CL_PROGRAM_BINARY_SIZES: {
        std::vector<std::size_t> sizes;
        for (cl_device_id device : devices) sizes.push_back(program->binary(device).size());
        return info.list(sizes);
      }
      case CL_PROGRAM_BINARIES:
        return copy_binaries(*program, info);
      case CL_PROGRAM_SCOPE_GLOBAL_CTORS_PRESENT:
      case CL_PROGRAM_SCOPE_GLOBAL_DTORS_PRESENT:
        return info.value<cl_bool>(CL_FALSE);
      case CL_PROGRAM_NUM_KERNELS:
      case CL_PROGRAM_KERNEL_NAMES: {
        const auto built = program->executable().first;
        MIRRORCL_GUARD(built != nullptr, CL_INVALID_PROGRAM_EXECUTABLE);
        if (param_name == CL_PROGRAM_NUM_KERNELS) return info.value<std::size_t>(built->image().kernels.size());
        return info.string(kernel_names(*built));
      }
      default:
        return CL_INVALID_VALUE;
    }
  });
}

cl_int CL_API_CALL clGetProgramBuildInfo(cl_program program, cl_device_id device, cl_program_build_info param_name,
                                         size_t param_value_size, void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(program);
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(program->set_of(device) != 0, CL_INVALID_DEVICE);
    const Info info(param_value_size, param_value, param_value_size_ret);
    const _cl_program::BuildState state = program->build_state(device);
    switch (param_name) {
      case CL_PROGRAM_BUILD_STATUS:
        return info.value<cl_build_status>(state.status);
      case CL_PROGRAM_BUILD_OPTIONS:
        return info.string(state.options);
      case CL_PROGRAM_BUILD_LOG:
        return info.string(state.log);
      case CL_PROGRAM_BINARY_TYPE:
        return info.value<cl_program_binary_type>(state.binary_type);
      case CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE:
        return info.value<std::size_t>(state.built ? state.built->image().global_variables_size : 0);
      default:
        return CL_INVALID_VALUE;
    }
  });
}

}  // extern "C"
