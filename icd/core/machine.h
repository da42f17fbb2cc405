// SPDX-License-Identifier: Apache-2.0
// What this machine is, from /proc and /sys. A millisecond's work; asked for at the first device query, not when
// loading.
#pragma once

#include "icd/core/device.h"

namespace mirrorcl::icd {

// What cannot be found out is left at DeviceFacts' default. Honours MIRRORCL_COMPUTE_UNITS and MIRRORCL_DEVICE_MEMORY.
DeviceFacts read_machine();

// Bytes of the widest vector register that the processor computes with.
cl_uint vector_bytes() noexcept;

}  // namespace mirrorcl::icd
