// SPDX-License-Identifier: Apache-2.0
// clGetDeviceInfo (OpenCL 3.0, 4.2, table 5). For what the device does not offer, the value that the table names for
// that case.
#include <CL/cl_ext.h>

#include <algorithm>
#include <optional>

#include "CL/cl_ext_mirrorcl.h"
#include "icd/api/guard.h"
#include "icd/core/capabilities.h"
#include "icd/core/device.h"
#include "icd/core/machine.h"
#include "icd/core/memory_placement.h"
#include "icd/core/platform.h"
#include "icd/core/printed_text.h"
#include "icd/core/runtime.h"

using namespace mirrorcl::icd;

namespace {

// What a query returns, or nothing if the group of queries does not hold it.
using Answer = std::optional<cl_int>;

// Alignment that satisfies every type: cl_long16.
constexpr cl_uint kTypeAlignment = sizeof(cl_long16);

// The device computes with the host's floating-point units, in the rounding mode of the C environment's default;
// kernels are compiled without relaxed arithmetic unless the build options ask for it.
constexpr cl_device_fp_config kFloatConfig =
    CL_FP_DENORM | CL_FP_INF_NAN | CL_FP_ROUND_TO_NEAREST | CL_FP_ROUND_TO_ZERO | CL_FP_ROUND_TO_INF | CL_FP_FMA;

// Elements of `bytes` each that a vector register holds, at most the 16 of OpenCL's longest vectors.
cl_uint vector_width(cl_uint bytes) noexcept {
  return std::min(16u, vector_bytes() / bytes);
}

Answer about_machine(cl_device_id device, cl_device_info name, const Info& info) {
  const DeviceFacts& facts = device->facts();
  switch (name) {
    case CL_DEVICE_NAME:
      return info.string(facts.name);
    case CL_DEVICE_VENDOR:
      return info.string(facts.vendor);
    case CL_DEVICE_VENDOR_ID:
      return info.value<cl_uint>(facts.vendor_id);
    case CL_DEVICE_MAX_COMPUTE_UNITS:
      return info.value<cl_uint>(facts.compute_units);
    case CL_DEVICE_MAX_CLOCK_FREQUENCY:
      return info.value<cl_uint>(facts.clock_mhz);
    case CL_DEVICE_ADDRESS_BITS:
      return info.value<cl_uint>(64);
    case CL_DEVICE_ENDIAN_LITTLE:
      return info.value<cl_bool>(CL_TRUE);
    case CL_DEVICE_ERROR_CORRECTION_SUPPORT:
      return info.value<cl_bool>(CL_FALSE);  // nobody can tell from user space
    case CL_DEVICE_HOST_UNIFIED_MEMORY:
      return info.value<cl_bool>(facts.unified_memory);
    case CL_DEVICE_GLOBAL_MEM_SIZE:
      return info.value<cl_ulong>(facts.memory_size);
    case CL_DEVICE_MAX_MEM_ALLOC_SIZE:
      return info.value<cl_ulong>(device->max_allocation());
    case CL_DEVICE_MAX_CONSTANT_BUFFER_SIZE:
      return info.value<cl_ulong>(device->max_allocation());
    case CL_DEVICE_GLOBAL_MEM_CACHE_TYPE:
      return info.value<cl_device_mem_cache_type>(facts.cache_size != 0 ? CL_READ_WRITE_CACHE : CL_NONE);
    case CL_DEVICE_GLOBAL_MEM_CACHE_SIZE:
      return info.value<cl_ulong>(facts.cache_size);
    case CL_DEVICE_GLOBAL_MEM_CACHELINE_SIZE:
      return info.value<cl_uint>(facts.cache_size != 0 ? facts.cache_line_size : 0);
    case CL_DEVICE_LOCAL_MEM_TYPE:
      return info.value<cl_device_local_mem_type>(CL_GLOBAL);
    case CL_DEVICE_LOCAL_MEM_SIZE:
      return info.value<cl_ulong>(facts.local_memory_size);
    case CL_DEVICE_PREFERRED_VECTOR_WIDTH_CHAR:
    case CL_DEVICE_NATIVE_VECTOR_WIDTH_CHAR:
      return info.value<cl_uint>(vector_width(1));
    case CL_DEVICE_PREFERRED_VECTOR_WIDTH_SHORT:
    case CL_DEVICE_NATIVE_VECTOR_WIDTH_SHORT:
      return info.value<cl_uint>(vector_width(2));
    case CL_DEVICE_PREFERRED_VECTOR_WIDTH_INT:
    case CL_DEVICE_NATIVE_VECTOR_WIDTH_INT:
    case CL_DEVICE_PREFERRED_VECTOR_WIDTH_FLOAT:
    case CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT:
      return info.value<cl_uint>(vector_width(4));
    case CL_DEVICE_PREFERRED_VECTOR_WIDTH_LONG:
    case CL_DEVICE_NATIVE_VECTOR_WIDTH_LONG:
    case CL_DEVICE_PREFERRED_VECTOR_WIDTH_DOUBLE:
    case CL_DEVICE_NATIVE_VECTOR_WIDTH_DOUBLE:
      return info.value<cl_uint>(vector_width(8));
    case CL_DEVICE_PREFERRED_VECTOR_WIDTH_HALF:
    case CL_DEVICE_NATIVE_VECTOR_WIDTH_HALF:
      return info.value<cl_uint>(0);  // no cl_khr_fp16
    case CL_DEVICE_PREFERRED_WORK_GROUP_SIZE_MULTIPLE:
      return info.value<std::size_t>(vector_width(4));
    default:
      return std::nullopt;
  }
}

Answer about_driver(cl_device_id device, cl_device_info name, const Info& info) {
  switch (name) {
    case CL_DEVICE_TYPE:
      return info.value<cl_device_type>(CL_DEVICE_TYPE_CPU);
    case CL_DEVICE_PLATFORM:
      return info.value<cl_platform_id>(device->platform());
    case CL_DEVICE_PROFILE:
      return info.string("FULL_PROFILE");
    case CL_DEVICE_VERSION:
      return info.string(device->version());
    case CL_DEVICE_NUMERIC_VERSION:
      return info.value<cl_version>(CL_MAKE_VERSION(3, 0, 0));
    case CL_DRIVER_VERSION:
      return info.string(MIRRORCL_VERSION);
    // OpenCL C 2.0 is accepted with what it shares with 3.0, but not claimed: it would promise images, pipes and device
    // queues.
    case CL_DEVICE_OPENCL_C_VERSION:
      return info.string("OpenCL C 1.2 MirrorCL " MIRRORCL_VERSION);
    case CL_DEVICE_OPENCL_C_NUMERIC_VERSION_KHR:
      return info.value<cl_version>(CL_MAKE_VERSION(1, 2, 0));
    case CL_DEVICE_OPENCL_C_ALL_VERSIONS:
      return info.array(opencl_c_versions());
    case CL_DEVICE_OPENCL_C_FEATURES:
      return info.array(opencl_c_features());
    case CL_DEVICE_EXTENSIONS:
      return info.string(joined_names(device_extensions()));
    case CL_DEVICE_EXTENSIONS_WITH_VERSION:
      return info.array(device_extensions());
    // Never submitted to the official process.
    case CL_DEVICE_LATEST_CONFORMANCE_VERSION_PASSED:
      return info.string("v0000-01-01-00");
    case CL_DEVICE_AVAILABLE:
      return info.value<cl_bool>(device->availability().has_value());
    case CL_DEVICE_LINKER_AVAILABLE:
    case CL_DEVICE_COMPILER_AVAILABLE:
      return info.value<cl_bool>(device->compiler_availability().has_value());
    case CL_DEVICE_REFERENCE_COUNT:
      return info.value<cl_uint>(1);
    case CL_DEVICE_BUILT_IN_KERNELS:
      return info.string("");
    case CL_DEVICE_BUILT_IN_KERNELS_WITH_VERSION:
    case CL_DEVICE_ILS_WITH_VERSION:
      return info.bytes(nullptr, 0);
    case CL_DEVICE_IL_VERSION:
      return info.string("");
    case CL_DEVICE_PARENT_DEVICE:
      return info.value<cl_device_id>(nullptr);
    case CL_DEVICE_PARTITION_MAX_SUB_DEVICES:
      return info.value<cl_uint>(0);
    case CL_DEVICE_PARTITION_PROPERTIES:
      return info.value<cl_device_partition_property>(0);
    case CL_DEVICE_PARTITION_TYPE:
      return info.bytes(nullptr, 0);
    case CL_DEVICE_PARTITION_AFFINITY_DOMAIN:
      return info.value<cl_device_affinity_domain>(0);
    default:
      return std::nullopt;
  }
}

Answer about_execution(cl_device_id device, cl_device_info name, const Info& info) {
  switch (name) {
    case CL_DEVICE_MAX_WORK_ITEM_DIMENSIONS:
      return info.value<cl_uint>(_cl_device_id::kMaxDimensions);
    case CL_DEVICE_MAX_WORK_GROUP_SIZE:
      return info.value<std::size_t>(_cl_device_id::kMaxWorkGroupSize);
    case CL_DEVICE_MAX_WORK_ITEM_SIZES: {
      const std::size_t sizes[_cl_device_id::kMaxDimensions] = {
          _cl_device_id::kMaxWorkGroupSize, _cl_device_id::kMaxWorkGroupSize, _cl_device_id::kMaxWorkGroupSize};
      return info.value(sizes);
    }
    case CL_DEVICE_MAX_PARAMETER_SIZE:
      return info.value<std::size_t>(_cl_device_id::kMaxParameterSize);
    case CL_DEVICE_MAX_CONSTANT_ARGS:
      return info.value<cl_uint>(64);
    case CL_DEVICE_MEM_BASE_ADDR_ALIGN:
      return info.value<cl_uint>(kTypeAlignment * 8);
    case CL_DEVICE_MIN_DATA_TYPE_ALIGN_SIZE:
      return info.value<cl_uint>(kTypeAlignment);
    case CL_DEVICE_SINGLE_FP_CONFIG:
      return info.value<cl_device_fp_config>(kFloatConfig | CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT);
    case CL_DEVICE_DOUBLE_FP_CONFIG:
      return info.value<cl_device_fp_config>(kFloatConfig);
    case CL_DEVICE_EXECUTION_CAPABILITIES:
      return info.value<cl_device_exec_capabilities>(CL_EXEC_KERNEL);
    case CL_DEVICE_QUEUE_ON_HOST_PROPERTIES:
      return info.value<cl_command_queue_properties>(CL_QUEUE_PROFILING_ENABLE);
    case CL_DEVICE_PROFILING_TIMER_RESOLUTION:
      return info.value<std::size_t>(1);  // nanoseconds
    case CL_DEVICE_PRINTF_BUFFER_SIZE:
      return info.value<std::size_t>(kPrintfCapacity);
    case CL_DEVICE_PREFERRED_INTEROP_USER_SYNC:
      return info.value<cl_bool>(CL_TRUE);
    case CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT:
      return info.value<cl_bool>(CL_TRUE);
    case CL_DEVICE_WORK_GROUP_COLLECTIVE_FUNCTIONS_SUPPORT:
      return info.value<cl_bool>(has_opencl_c_feature("__opencl_c_work_group_collective_functions"));
    case CL_DEVICE_GENERIC_ADDRESS_SPACE_SUPPORT:
      return info.value<cl_bool>(has_opencl_c_feature("__opencl_c_generic_address_space"));
    case CL_DEVICE_MAX_GLOBAL_VARIABLE_SIZE:
      return info.value<std::size_t>(has_opencl_c_feature("__opencl_c_program_scope_global_variables") ? 64 << 10 : 0);
    case CL_DEVICE_GLOBAL_VARIABLE_PREFERRED_TOTAL_SIZE:
      return info.value<std::size_t>(has_opencl_c_feature("__opencl_c_program_scope_global_variables") ? 64 << 10 : 0);
    case CL_DEVICE_SVM_CAPABILITIES:
      // Any pointer of the process reaches the device and any device pointer the process. Without the mirror, nothing.
      return info.value<cl_device_svm_capabilities>(
          device->availability().has_value() ? CL_DEVICE_SVM_COARSE_GRAIN_BUFFER | CL_DEVICE_SVM_FINE_GRAIN_BUFFER |
                                                   CL_DEVICE_SVM_FINE_GRAIN_SYSTEM | CL_DEVICE_SVM_ATOMICS
                                             : 0);
    // 0: the natural size of the type.
    case CL_DEVICE_PREFERRED_PLATFORM_ATOMIC_ALIGNMENT:
    case CL_DEVICE_PREFERRED_GLOBAL_ATOMIC_ALIGNMENT:
    case CL_DEVICE_PREFERRED_LOCAL_ATOMIC_ALIGNMENT:
      return info.value<cl_uint>(0);
    case CL_DEVICE_ATOMIC_MEMORY_CAPABILITIES:
      return info.value<cl_device_atomic_capabilities>(
          CL_DEVICE_ATOMIC_ORDER_RELAXED | CL_DEVICE_ATOMIC_ORDER_ACQ_REL | CL_DEVICE_ATOMIC_ORDER_SEQ_CST |
          CL_DEVICE_ATOMIC_SCOPE_WORK_GROUP | CL_DEVICE_ATOMIC_SCOPE_DEVICE | CL_DEVICE_ATOMIC_SCOPE_ALL_DEVICES);
    case CL_DEVICE_ATOMIC_FENCE_CAPABILITIES:
      return info.value<cl_device_atomic_capabilities>(
          CL_DEVICE_ATOMIC_ORDER_RELAXED | CL_DEVICE_ATOMIC_ORDER_ACQ_REL | CL_DEVICE_ATOMIC_ORDER_SEQ_CST |
          CL_DEVICE_ATOMIC_SCOPE_WORK_ITEM | CL_DEVICE_ATOMIC_SCOPE_WORK_GROUP | CL_DEVICE_ATOMIC_SCOPE_DEVICE |
          CL_DEVICE_ATOMIC_SCOPE_ALL_DEVICES);
    default:
      return std::nullopt;
  }
}

// Images, pipes, device queues and sub-groups: what table 5 prescribes for a device without them.
Answer about_missing(cl_device_info name, const Info& info) {
  switch (name) {
    case CL_DEVICE_IMAGE_SUPPORT:
    case CL_DEVICE_PIPE_SUPPORT:
    case CL_DEVICE_SUB_GROUP_INDEPENDENT_FORWARD_PROGRESS:
      return info.value<cl_bool>(CL_FALSE);
    case CL_DEVICE_MAX_READ_IMAGE_ARGS:
    case CL_DEVICE_MAX_WRITE_IMAGE_ARGS:
    case CL_DEVICE_MAX_READ_WRITE_IMAGE_ARGS:
    case CL_DEVICE_MAX_SAMPLERS:
    case CL_DEVICE_IMAGE_PITCH_ALIGNMENT:
    case CL_DEVICE_IMAGE_BASE_ADDRESS_ALIGNMENT:
    case CL_DEVICE_MAX_PIPE_ARGS:
    case CL_DEVICE_PIPE_MAX_ACTIVE_RESERVATIONS:
    case CL_DEVICE_PIPE_MAX_PACKET_SIZE:
    case CL_DEVICE_QUEUE_ON_DEVICE_PREFERRED_SIZE:
    case CL_DEVICE_QUEUE_ON_DEVICE_MAX_SIZE:
    case CL_DEVICE_MAX_ON_DEVICE_QUEUES:
    case CL_DEVICE_MAX_ON_DEVICE_EVENTS:
    case CL_DEVICE_MAX_NUM_SUB_GROUPS:
      return info.value<cl_uint>(0);
    case CL_DEVICE_IMAGE2D_MAX_WIDTH:
    case CL_DEVICE_IMAGE2D_MAX_HEIGHT:
    case CL_DEVICE_IMAGE3D_MAX_WIDTH:
    case CL_DEVICE_IMAGE3D_MAX_HEIGHT:
    case CL_DEVICE_IMAGE3D_MAX_DEPTH:
    case CL_DEVICE_IMAGE_MAX_BUFFER_SIZE:
    case CL_DEVICE_IMAGE_MAX_ARRAY_SIZE:
      return info.value<std::size_t>(0);
    case CL_DEVICE_QUEUE_ON_DEVICE_PROPERTIES:
      return info.value<cl_command_queue_properties>(0);
    case CL_DEVICE_DEVICE_ENQUEUE_CAPABILITIES:
      return info.value<cl_device_device_enqueue_capabilities>(0);
    default:
      return std::nullopt;
  }
}

cl_uint source_of(const std::optional<mirrorcl::hms::Value>& figure) {
  if (!figure) return CL_FIGURE_UNKNOWN_MIRRORCL;
  switch (figure->source) {
    case mirrorcl::hms::Source::kAssumed:
      return CL_FIGURE_ASSUMED_MIRRORCL;
    case mirrorcl::hms::Source::kFirmware:
      return CL_FIGURE_FIRMWARE_MIRRORCL;
    case mirrorcl::hms::Source::kMeasured:
      return CL_FIGURE_MEASURED_MIRRORCL;
    case mirrorcl::hms::Source::kConfigured:
      return CL_FIGURE_CONFIGURED_MIRRORCL;
  }
  return CL_FIGURE_UNKNOWN_MIRRORCL;
}

cl_ulong number_of(const std::optional<mirrorcl::hms::Value>& figure) {
  return figure ? figure->number : 0;
}

// cl_mirrorcl_statistics: does not start the device.
Answer about_statistics(cl_device_id device, cl_device_info name, const Info& info) {
  if (name != CL_DEVICE_MIRROR_STATISTICS_MIRRORCL) return std::nullopt;
  cl_device_mirror_statistics_mirrorcl out{};
  Runtime* runtime = Runtime::if_started();
  if (runtime != nullptr && runtime->mirror() != nullptr) {
    const auto in = runtime->mirror()->statistics(runtime->device(device->index()));
    out = {in.faults,    in.faults_failed, in.pages_in, in.pages_home, in.pages_from_devices, in.coherent_upgrades,
           in.evictions, in.losses};
  }
  return info.value(out);
}

// cl_mirrorcl_hms: what the topology says of the device, for which it must run.
Answer about_placement(cl_device_id device, cl_device_info name, const Info& info) {
  if (name < CL_DEVICE_INITIATOR_MIRRORCL || name > CL_DEVICE_MEMORY_LATENCY_SOURCE_MIRRORCL) return std::nullopt;
  if (!device->runtime()) return CL_DEVICE_NOT_AVAILABLE;
  const auto placement = MemoryPlacement::get();
  if (!placement) return report(placement.error());
  const MemoryPlacement::DeviceFigures figures = (*placement)->figures(device->index());
  switch (name) {
    case CL_DEVICE_INITIATOR_MIRRORCL:
      return info.value<cl_uint>(figures.initiator);
    case CL_DEVICE_MEMORY_TARGET_MIRRORCL:
      return info.value<cl_uint>(figures.target);
    case CL_DEVICE_MEMORY_NUMA_NODE_MIRRORCL:
      return info.value<cl_int>(figures.node);
    case CL_DEVICE_MEMORY_BANDWIDTH_MIRRORCL:
      return info.value<cl_ulong>(number_of(figures.bandwidth));
    case CL_DEVICE_MEMORY_LATENCY_MIRRORCL:
      return info.value<cl_ulong>(number_of(figures.latency));
    case CL_DEVICE_MEMORY_BANDWIDTH_SOURCE_MIRRORCL:
      return info.value<cl_uint>(source_of(figures.bandwidth));
    default:
      return info.value<cl_uint>(source_of(figures.latency));
  }
}

}  // namespace

extern "C" cl_int CL_API_CALL clGetDeviceInfo(cl_device_id device, cl_device_info param_name, size_t param_value_size,
                                              void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(device);
    const Info info(param_value_size, param_value, param_value_size_ret);
    if (const Answer answer = about_driver(device, param_name, info)) return *answer;
    if (const Answer answer = about_execution(device, param_name, info)) return *answer;
    if (const Answer answer = about_missing(param_name, info)) return *answer;
    if (const Answer answer = about_statistics(device, param_name, info)) return *answer;
    if (const Answer answer = about_placement(device, param_name, info)) return *answer;
    return about_machine(device, param_name, info).value_or(CL_INVALID_VALUE);
  });
}
