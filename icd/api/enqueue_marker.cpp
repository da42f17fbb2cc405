// SPDX-License-Identifier: Apache-2.0
// Markers and barriers: OpenCL 3.0, 5.12, and their forms of OpenCL 1.x. In an in-order queue the two differ in nothing
// but the command's type: both are complete when everything before them and in their wait list is, and what follows
// waits for them.
#include <CL/cl.h>

#include "icd/api/enqueue.h"
#include "icd/core/context.h"

using namespace mirrorcl::icd;

extern "C" {

CL_API_ENTRY cl_int CL_API_CALL clEnqueueMarkerWithWaitList(cl_command_queue command_queue,
                                                            cl_uint num_events_in_wait_list,
                                                            const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    return enqueue(command_queue, make_marker(command_queue, CL_COMMAND_MARKER), num_events_in_wait_list,
                   event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueBarrierWithWaitList(cl_command_queue command_queue,
                                                             cl_uint num_events_in_wait_list,
                                                             const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    return enqueue(command_queue, make_marker(command_queue, CL_COMMAND_BARRIER), num_events_in_wait_list,
                   event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueMarker(cl_command_queue command_queue, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(command_queue);
    MIRRORCL_GUARD(event != nullptr, CL_INVALID_VALUE);
    return enqueue(command_queue, make_marker(command_queue, CL_COMMAND_MARKER), 0, nullptr, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueBarrier(cl_command_queue command_queue) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(command_queue);
    return CL_SUCCESS;  // what an in-order queue does anyhow
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueWaitForEvents(cl_command_queue command_queue, cl_uint num_events,
                                                       const cl_event* event_list) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(command_queue);
    MIRRORCL_GUARD(num_events != 0 && event_list != nullptr, CL_INVALID_VALUE);
    for (cl_uint i = 0; i < num_events; ++i) {
      MIRRORCL_VALID(event_list[i]);
      MIRRORCL_GUARD(event_list[i]->context() == command_queue->context(), CL_INVALID_CONTEXT);
    }
    return enqueue(command_queue, make_marker(command_queue, CL_COMMAND_BARRIER), num_events, event_list, nullptr);
  });
}

}  // extern "C"
