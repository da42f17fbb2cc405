// SPDX-License-Identifier: Apache-2.0
// A shared library with zero-initialised globals of its own: those of the test program share an object with the mirror,
// which the mirror keeps for itself.
#include <cstdint>

namespace {
alignas(4096) std::uint64_t g_zeros[4 * 512];
}

extern "C" __attribute__((visibility("default"))) std::uint64_t* test_bss() {
  return g_zeros;
}
