// SPDX-License-Identifier: Apache-2.0
// Launches: OpenCL 3.0, 5.10.
#include <CL/cl.h>

#include <new>
#include <span>
#include <utility>

#include "icd/api/enqueue.h"
#include "icd/core/context.h"
#include "icd/core/device.h"
#include "icd/core/kernel.h"
#include "icd/core/launch.h"
#include "icd/core/launch_ahead.h"
#include "icd/core/printed_text.h"
#include "icd/core/runtime.h"

using namespace mirrorcl::icd;
namespace device = mirrorcl::device;

namespace {

cl_int make_kernel_grid(cl_kernel kernel, cl_command_queue queue, cl_uint work_dim, const size_t* offset,
                        const size_t* global, const size_t* local, Grid* grid) {
  LocalSizeRules rules;
  rules.required = kernel->image().required_local_size.data();
  rules.max_work_item_size = _cl_device_id::kMaxWorkGroupSize;
  rules.max_work_group_size = kernel->max_work_group_size();
  rules.compute_units = queue->hardware().compute_units();
  rules.uniform = kernel->image().uniform_work_groups;
  return make_grid(work_dim, offset, global, local, rules, grid);
}

cl_int enqueue_kernel(cl_command_queue queue, cl_kernel kernel, cl_command_type type, cl_uint work_dim,
                      const size_t* offset, const size_t* global, const size_t* local, cl_uint count,
                      const cl_event* list, cl_event* event) {
  MIRRORCL_TRY(check_queue(queue, count, list));
  MIRRORCL_VALID(kernel);
  MIRRORCL_GUARD(kernel->context() == queue->context(), CL_INVALID_CONTEXT);
  MIRRORCL_GUARD(kernel->runs_on(queue->device()), CL_INVALID_PROGRAM_EXECUTABLE);
  Runtime& runtime = queue->runtime();
  Grid grid;
  MIRRORCL_TRY(make_kernel_grid(kernel, queue, work_dim, offset, global, local, &grid));
  runtime.refresh_view();
  auto launch = KernelLaunchState::capture(*kernel, runtime);
  if (!launch) return launch.error();
  device::PrintfBuffer* printf_buffer = nullptr;
  if (launch->uses_printf()) {
    void* memory = runtime.any_device().allocate(sizeof(device::PrintfBuffer) + kPrintfCapacity);
    MIRRORCL_GUARD(memory != nullptr, CL_OUT_OF_RESOURCES);
    printf_buffer = new (memory) device::PrintfBuffer{};
    printf_buffer->capacity = kPrintfCapacity;
  }
  auto* command = new _cl_event(*queue, type, CommandKind::kKernel);
  command->set_launch(std::move(*launch), grid, printf_buffer);
  const LaunchAhead ahead(*queue, *kernel, *command, std::span(list, count));
  const cl_int status = enqueue(queue, command, count, list, event);
  ahead.bring();  // now: whoever wakes another thread may have to make room for it
  return status;
}

}  // namespace

extern "C" {

CL_API_ENTRY cl_int CL_API_CALL clEnqueueNDRangeKernel(cl_command_queue command_queue, cl_kernel kernel,
                                                       cl_uint work_dim, const size_t* global_work_offset,
                                                       const size_t* global_work_size, const size_t* local_work_size,
                                                       cl_uint num_events_in_wait_list, const cl_event* event_wait_list,
                                                       cl_event* event) {
  return call([&] {
    return enqueue_kernel(command_queue, kernel, CL_COMMAND_NDRANGE_KERNEL, work_dim, global_work_offset,
                          global_work_size, local_work_size, num_events_in_wait_list, event_wait_list, event);
  });
}

// A kernel of one work-item (deprecated in 2.0).
CL_API_ENTRY cl_int CL_API_CALL clEnqueueTask(cl_command_queue command_queue, cl_kernel kernel,
                                              cl_uint num_events_in_wait_list, const cl_event* event_wait_list,
                                              cl_event* event) {
  return call([&] {
    const size_t one = 1;
    return enqueue_kernel(command_queue, kernel, CL_COMMAND_TASK, 1, nullptr, &one, &one, num_events_in_wait_list,
                          event_wait_list, event);
  });
}

// CL_DEVICE_EXECUTION_CAPABILITIES does not have CL_EXEC_NATIVE_KERNEL: a function of the application cannot run in the
// device's process.
CL_API_ENTRY cl_int CL_API_CALL clEnqueueNativeKernel(cl_command_queue command_queue,
                                                      void(CL_CALLBACK* user_func)(void*), void* args, size_t cb_args,
                                                      cl_uint num_mem_objects, const cl_mem* mem_list,
                                                      const void** args_mem_loc, cl_uint num_events_in_wait_list,
                                                      const cl_event* event_wait_list, cl_event* /*event*/) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_GUARD(user_func != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD((args == nullptr) == (cb_args == 0), CL_INVALID_VALUE);
    MIRRORCL_GUARD(args != nullptr || num_mem_objects == 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD((num_mem_objects == 0) == (mem_list == nullptr), CL_INVALID_VALUE);
    MIRRORCL_GUARD((num_mem_objects == 0) == (args_mem_loc == nullptr), CL_INVALID_VALUE);
    return CL_INVALID_OPERATION;
  });
}

}  // extern "C"
