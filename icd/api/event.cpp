// SPDX-License-Identifier: Apache-2.0
// Events: OpenCL 3.0, 5.11; profiling: 5.14.
#include "icd/core/event.h"

#include <CL/cl.h>

#include "icd/api/guard.h"
#include "icd/core/command_queue.h"
#include "icd/core/context.h"

using namespace mirrorcl::icd;

extern "C" {

CL_API_ENTRY cl_event CL_API_CALL clCreateUserEvent(cl_context context, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_event> {
    MIRRORCL_VALID(context);
    return _cl_event::make_user(*context);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clSetUserEventStatus(cl_event event, cl_int execution_status) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(event);
    MIRRORCL_GUARD(event->is_user(), CL_INVALID_EVENT);
    MIRRORCL_GUARD(execution_status <= CL_COMPLETE, CL_INVALID_VALUE);
    return event->set_user_status(execution_status) ? CL_SUCCESS : CL_INVALID_OPERATION;
  });
}

CL_API_ENTRY cl_int CL_API_CALL clRetainEvent(cl_event event) {
  return retain_handle(event);
}
CL_API_ENTRY cl_int CL_API_CALL clReleaseEvent(cl_event event) {
  return release_handle(event);
}

CL_API_ENTRY cl_int CL_API_CALL clWaitForEvents(cl_uint num_events, const cl_event* event_list) {
  return call([&]() -> cl_int {
    MIRRORCL_GUARD(num_events != 0 && event_list != nullptr, CL_INVALID_VALUE);
    for (cl_uint i = 0; i < num_events; ++i) {
      MIRRORCL_VALID(event_list[i]);
      MIRRORCL_GUARD(event_list[i]->context() == event_list[0]->context(), CL_INVALID_CONTEXT);
    }
    cl_int result = CL_SUCCESS;
    for (cl_uint i = 0; i < num_events; ++i) {
      if (event_list[i]->wait() < 0) result = CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST;
    }
    return result;
  });
}

CL_API_ENTRY cl_int CL_API_CALL clGetEventInfo(cl_event event, cl_event_info param_name, size_t param_value_size,
                                               void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(event);
    const Info info(param_value_size, param_value, param_value_size_ret);
    switch (param_name) {
      case CL_EVENT_COMMAND_QUEUE:
        return info.value<cl_command_queue>(event->queue());
      case CL_EVENT_CONTEXT:
        return info.value<cl_context>(event->context());
      case CL_EVENT_COMMAND_TYPE:
        return info.value<cl_command_type>(event->type());
      case CL_EVENT_COMMAND_EXECUTION_STATUS:
        return info.value<cl_int>(event->status());
      case CL_EVENT_REFERENCE_COUNT:
        return info.value<cl_uint>(event->api_count());
      default:
        return CL_INVALID_VALUE;
    }
  });
}

CL_API_ENTRY cl_int CL_API_CALL clSetEventCallback(cl_event event, cl_int command_exec_callback_type,
                                                   void(CL_CALLBACK* pfn_notify)(cl_event, cl_int, void*),
                                                   void* user_data) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(event);
    MIRRORCL_GUARD(pfn_notify != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD(command_exec_callback_type == CL_SUBMITTED || command_exec_callback_type == CL_RUNNING ||
                       command_exec_callback_type == CL_COMPLETE,
                   CL_INVALID_VALUE);
    event->add_callback(command_exec_callback_type, pfn_notify, user_data);
    return CL_SUCCESS;
  });
}

CL_API_ENTRY cl_int CL_API_CALL clGetEventProfilingInfo(cl_event event, cl_profiling_info param_name,
                                                        size_t param_value_size, void* param_value,
                                                        size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(event);
    MIRRORCL_GUARD(!event->is_user() && event->queue()->profiling(), CL_PROFILING_INFO_NOT_AVAILABLE);
    MIRRORCL_GUARD(event->status() == CL_COMPLETE, CL_PROFILING_INFO_NOT_AVAILABLE);
    const Info info(param_value_size, param_value, param_value_size_ret);
    switch (param_name) {
      case CL_PROFILING_COMMAND_QUEUED:
        return info.value<cl_ulong>(event->queued_ns());
      case CL_PROFILING_COMMAND_SUBMIT:
        return info.value<cl_ulong>(event->submit_ns());
      case CL_PROFILING_COMMAND_START:
        return info.value<cl_ulong>(event->start_ns());
      case CL_PROFILING_COMMAND_END:
      case CL_PROFILING_COMMAND_COMPLETE:  // no command here has child commands
        return info.value<cl_ulong>(event->end_ns());
      default:
        return CL_INVALID_VALUE;
    }
  });
}

}  // extern "C"
