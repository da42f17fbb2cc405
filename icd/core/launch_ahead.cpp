// SPDX-License-Identifier: Apache-2.0
#include "icd/core/launch_ahead.h"

#include "base/options.h"
#include "icd/core/command_queue.h"
#include "icd/core/kernel.h"
#include "icd/core/runtime.h"

namespace mirrorcl::icd {

LaunchAhead::LaunchAhead(_cl_command_queue& queue, const _cl_kernel& kernel, _cl_event& command,
                         std::span<const cl_event> wait_list) noexcept
    : queue_(queue) {
  mirror::Mirror* const mirror = queue.runtime().mirror();
  if (mirror == nullptr) return;
  kernel.for_each_named([&](const mirror::NamedMemory& named) {
    if (count_ < kMost && !mirror->has_come(queue.hardware(), named.address)) memory_[count_++] = named;
  });
  if (count_ != 0 && options().launch_ahead != Options::LaunchAhead::kNever) wait_ = queue.wait_of(command, wait_list);
}

void LaunchAhead::begin() const noexcept {
  queue_.runtime().mirror()->expect(queue_.hardware(), std::span(memory_).first(count_), wait_);
}

}  // namespace mirrorcl::icd
