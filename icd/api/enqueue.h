// SPDX-License-Identifier: Apache-2.0
// What every clEnqueue... function shares: the guards of its queue, wait list and memory objects, and its end.
#pragma once

#include <CL/cl.h>

#include <cstddef>
#include <span>
#include <utility>

#include "icd/api/guard.h"
#include "icd/core/command_queue.h"
#include "icd/core/event.h"
#include "icd/core/memory.h"

namespace mirrorcl::icd {

// CL_INVALID_EVENT_WAIT_LIST, or CL_INVALID_CONTEXT if an event is of another context than the queue.
inline cl_int check_wait_list(cl_command_queue queue, cl_uint count, const cl_event* list) noexcept {
  if ((count == 0) != (list == nullptr)) return CL_INVALID_EVENT_WAIT_LIST;
  for (cl_uint i = 0; i < count; ++i) {
    if (!is_valid(list[i])) return CL_INVALID_EVENT_WAIT_LIST;
    if (list[i]->context() != queue->context()) return CL_INVALID_CONTEXT;
  }
  return CL_SUCCESS;
}

// The queue, then the wait list.
inline cl_int check_queue(cl_command_queue queue, cl_uint count, const cl_event* list) noexcept {
  MIRRORCL_VALID(queue);
  return check_wait_list(queue, count, list);
}

// A valid buffer of the queue's context. Images and pipes never exist as valid objects.
inline cl_int check_buffer(cl_command_queue queue, cl_mem buffer) noexcept {
  MIRRORCL_VALID(buffer);
  return buffer->context() == queue->context() ? CL_SUCCESS : CL_INVALID_CONTEXT;
}

// [offset, offset + size) lies in the buffer, else CL_INVALID_VALUE.
inline cl_int check_range(cl_mem buffer, std::size_t offset, std::size_t size) noexcept {
  return offset <= buffer->size() && size <= buffer->size() - offset ? CL_SUCCESS : CL_INVALID_VALUE;
}

// The end of a clEnqueue... function: enqueues `command`, hands out its event if one is asked for, waits if it is a
// blocking call.
inline cl_int enqueue(cl_command_queue queue, _cl_event* command, cl_uint count, const cl_event* list, cl_event* event,
                      bool blocking = false) {
  const std::span<const cl_event> wait_list(list, count);
  const cl_event shown = event != nullptr ? command->show() : nullptr;
  cl_int status = CL_COMPLETE;
  if (blocking) {
    status = queue->enqueue_and_wait(command, wait_list);
  } else {
    queue->enqueue(command, wait_list);
  }
  if (event != nullptr) *event = shown;  // last: it may lie in the wait list
  return status < 0 ? status : CL_SUCCESS;
}

// The same for a command of host work. Copies of up to this many bytes are done by the enqueuing thread when nothing is
// before them.
inline constexpr std::size_t kShortBytes = 16 * 1024;

inline _cl_event* make_host_command(cl_command_queue queue, cl_command_type type, std::size_t bytes, HostWork work) {
  auto* command = new _cl_event(*queue, type, bytes <= kShortBytes ? CommandKind::kHostShort : CommandKind::kHost);
  command->set_work(std::move(work));
  return command;
}

inline _cl_event* make_marker(cl_command_queue queue, cl_command_type type) {
  return new _cl_event(*queue, type, CommandKind::kMarker);
}

}  // namespace mirrorcl::icd
