// SPDX-License-Identifier: Apache-2.0
// Commands that ended abnormally on the device, in words.
#pragma once

#include <CL/cl.h>

#include <cstdint>
#include <string>

#include "device/packet.h"

namespace mirrorcl::icd {

// Logs why a command ended with `status` (negative, of device::Signal) and returns the sentence: the kernel, the
// work-group, the address and the kind. `kernel` is null for a command without one.
std::string log_failure(const _cl_kernel* kernel, std::int32_t status, const device::SignalError& error);

}  // namespace mirrorcl::icd
