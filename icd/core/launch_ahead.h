// SPDX-License-Identifier: Apache-2.0
// What a launch names (clSetKernelArgSVMPointer, buffers on the application's memory, CL_KERNEL_EXEC_INFO_SVM_PTRS)
// comes to its device while it waits for kernels of its queue or for events. A launch that begins at once is better
// served by the device's own faults (docs/decisions/0012-hms-decides.md).
//
//   LaunchAhead ahead(queue, kernel, command, wait_list);
//   queue.enqueue(command, wait_list);
//   ahead.bring();
#pragma once

#include <CL/cl.h>

#include <array>
#include <cstddef>
#include <span>

#include "mirror/mirror.h"

namespace mirrorcl::icd {

class LaunchAhead {
 public:
  // `command`: a launch of `kernel` that is enqueued next. Costs a few loads for each pointer that has come already.
  LaunchAhead(_cl_command_queue& queue, const _cl_kernel& kernel, _cl_event& command,
              std::span<const cl_event> wait_list) noexcept;
  void bring() const noexcept {
    if (wait_.word != nullptr) begin();
  }

 private:
  static constexpr std::size_t kMost = 32;  // of more pointers the first

  void begin() const noexcept;

  _cl_command_queue& queue_;
  std::size_t count_ = 0;
  std::array<mirror::NamedMemory, kMost> memory_;  // the first count_
  mirror::LaunchWait wait_;                        // of none: nothing is to come
};

}  // namespace mirrorcl::icd
