// SPDX-License-Identifier: Apache-2.0
// What kernels print.
#pragma once

#include <cstdint>

#include "device/packet.h"

namespace mirrorcl::icd {

// CL_DEVICE_PRINTF_BUFFER_SIZE: bytes of text that one launch can print.
inline constexpr std::uint32_t kPrintfCapacity = 1024 * 1024;

// Writes the text to standard output, in order with what the application itself prints there with stdio.
void write_printed_text(device::PrintfBuffer& buffer);

}  // namespace mirrorcl::icd
