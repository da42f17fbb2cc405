// SPDX-License-Identifier: Apache-2.0
#include "icd/core/failure.h"

#include <fmt/format.h>

#include "base/log.h"
#include "device/cpu/cpu_device.h"
#include "icd/core/kernel.h"

namespace mirrorcl::icd {

std::string log_failure(const _cl_kernel* kernel, std::int32_t status, const device::SignalError& error) {
  const std::string what =
      kernel != nullptr ? fmt::format("kernel '{}'", kernel->image().name) : std::string("a marker");
  std::string message;
  if (status == device::kStatusDeviceLost) {
    message = fmt::format(
        "{} ended because the device process died; memory is intact and the next launch starts a new one", what);
  } else {
    std::string group = fmt::format("{}", error.group[0]);
    for (std::uint32_t d = 1; d < error.work_dim && d < 3; ++d) group += fmt::format(", {}", error.group[d]);
    message = fmt::format("{} failed in work-group ({}): {} at address {:#x} (instruction {:#x})", what, group,
                          device::fault_kind_name(error.kind), error.address, error.instruction);
  }
  log_error("{}", message);
  return message;
}

}  // namespace mirrorcl::icd
