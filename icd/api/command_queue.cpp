// SPDX-License-Identifier: Apache-2.0
// Command queues: OpenCL 3.0, 5.1; flush and finish: 5.15.
#include "icd/core/command_queue.h"

#include <CL/cl.h>

#include <utility>
#include <vector>

#include "icd/api/guard.h"
#include "icd/core/context.h"
#include "icd/core/device.h"
#include "icd/core/runtime.h"

using namespace mirrorcl::icd;

namespace {

constexpr cl_command_queue_properties kKnownFlags = CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE | CL_QUEUE_PROFILING_ENABLE |
                                                    CL_QUEUE_ON_DEVICE | CL_QUEUE_ON_DEVICE_DEFAULT;

ClResult<cl_command_queue> make_queue(cl_context context, cl_device_id device, cl_command_queue_properties flags,
                                      std::vector<cl_queue_properties> properties) {
  MIRRORCL_GUARD((flags & ~kKnownFlags) == 0, CL_INVALID_VALUE);
  // Out-of-order queues and queues on the device are what the device does not offer
  // (CL_DEVICE_QUEUE_ON_HOST_PROPERTIES).
  MIRRORCL_GUARD((flags & ~static_cast<cl_command_queue_properties>(CL_QUEUE_PROFILING_ENABLE)) == 0,
                 CL_INVALID_QUEUE_PROPERTIES);
  auto runtime = device->runtime();
  if (!runtime) return ClError{report(runtime.error())};
  auto queue = _cl_command_queue::make(*context, device, **runtime, flags, std::move(properties));
  if (!queue)
    return ClError{report(queue.error()) == CL_OUT_OF_HOST_MEMORY ? CL_OUT_OF_HOST_MEMORY : CL_OUT_OF_RESOURCES};
  return *queue;
}

}  // namespace

extern "C" {

CL_API_ENTRY cl_command_queue CL_API_CALL clCreateCommandQueue(cl_context context, cl_device_id device,
                                                               cl_command_queue_properties properties,
                                                               cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_command_queue> {
    MIRRORCL_VALID(context);
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(context->has_device(device), CL_INVALID_DEVICE);
    // The 1.x function knows the 1.x flags only.
    MIRRORCL_GUARD((properties & ~static_cast<cl_command_queue_properties>(CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE |
                                                                           CL_QUEUE_PROFILING_ENABLE)) == 0,
                   CL_INVALID_VALUE);
    return make_queue(context, device, properties, {});
  });
}

CL_API_ENTRY cl_command_queue CL_API_CALL clCreateCommandQueueWithProperties(cl_context context, cl_device_id device,
                                                                             const cl_queue_properties* properties,
                                                                             cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_command_queue> {
    MIRRORCL_VALID(context);
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(context->has_device(device), CL_INVALID_DEVICE);
    std::vector<cl_queue_properties> list;
    cl_command_queue_properties flags = 0;
    bool has_size = false;
    if (properties != nullptr) {
      for (const cl_queue_properties* at = properties; *at != 0; at += 2) {
        MIRRORCL_GUARD(at[0] == CL_QUEUE_PROPERTIES || at[0] == CL_QUEUE_SIZE, CL_INVALID_VALUE);
        if (at[0] == CL_QUEUE_PROPERTIES) flags = at[1];
        has_size |= at[0] == CL_QUEUE_SIZE;
        list.insert(list.end(), at, at + 2);
      }
      list.push_back(0);
    }
    // A size is for queues on the device.
    MIRRORCL_GUARD(!has_size || (flags & CL_QUEUE_ON_DEVICE) != 0, CL_INVALID_VALUE);
    return make_queue(context, device, flags, std::move(list));
  });
}

CL_API_ENTRY cl_int CL_API_CALL clRetainCommandQueue(cl_command_queue command_queue) {
  return retain_handle(command_queue);
}

CL_API_ENTRY cl_int CL_API_CALL clReleaseCommandQueue(cl_command_queue command_queue) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(command_queue);
    const Ref<_cl_command_queue> keep(command_queue);
    MIRRORCL_GUARD(command_queue->api_release(), CL_INVALID_COMMAND_QUEUE);
    if (command_queue->api_count() == 0) command_queue->let_go();
    return CL_SUCCESS;
  });
}

CL_API_ENTRY cl_int CL_API_CALL clGetCommandQueueInfo(cl_command_queue command_queue, cl_command_queue_info param_name,
                                                      size_t param_value_size, void* param_value,
                                                      size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(command_queue);
    const Info info(param_value_size, param_value, param_value_size_ret);
    switch (param_name) {
      case CL_QUEUE_CONTEXT:
        return info.value<cl_context>(command_queue->context());
      case CL_QUEUE_DEVICE:
        return info.value<cl_device_id>(command_queue->device());
      case CL_QUEUE_REFERENCE_COUNT:
        return info.value<cl_uint>(command_queue->api_count());
      case CL_QUEUE_PROPERTIES:
        return info.value<cl_command_queue_properties>(command_queue->flags());
      case CL_QUEUE_PROPERTIES_ARRAY:
        return info.list(command_queue->properties());
      case CL_QUEUE_SIZE:
        return CL_INVALID_COMMAND_QUEUE;  // not a queue on the device
      case CL_QUEUE_DEVICE_DEFAULT:
        return info.value<cl_command_queue>(nullptr);  // the device has no queues of its own
      default:
        return CL_INVALID_VALUE;
    }
  });
}

// Removed in OpenCL 1.1; a device of 1.1 or later may refuse it.
CL_API_ENTRY cl_int CL_API_CALL clSetCommandQueueProperty(cl_command_queue command_queue,
                                                          cl_command_queue_properties properties, cl_bool /*enable*/,
                                                          cl_command_queue_properties* old_properties) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(command_queue);
    MIRRORCL_GUARD((properties & ~kKnownFlags) == 0, CL_INVALID_VALUE);
    if (old_properties != nullptr) *old_properties = command_queue->flags();
    return CL_INVALID_OPERATION;
  });
}

CL_API_ENTRY cl_int CL_API_CALL clSetDefaultDeviceCommandQueue(cl_context context, cl_device_id device,
                                                               cl_command_queue /*command_queue*/) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(context);
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(context->has_device(device), CL_INVALID_DEVICE);
    // "CL_INVALID_OPERATION if device does not support a replaceable default on-device queue."
    return CL_INVALID_OPERATION;
  });
}

CL_API_ENTRY cl_int CL_API_CALL clFlush(cl_command_queue command_queue) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(command_queue);
    return CL_SUCCESS;  // a command is started as soon as what it waits for is done
  });
}

CL_API_ENTRY cl_int CL_API_CALL clFinish(cl_command_queue command_queue) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(command_queue);
    return command_queue->finish();
  });
}

}  // extern "C"
