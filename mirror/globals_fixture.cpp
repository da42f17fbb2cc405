// SPDX-License-Identifier: Apache-2.0
// A shared library with globals of its own: those of the test program share an object with the mirror, which the mirror
// keeps for itself.
#include <cstdint>

namespace {
alignas(4096) std::uint64_t g_zeros[4 * 512];
alignas(4096) std::uint64_t g_words[4 * 512] = {1, 2, 3};
alignas(4096) const std::uint64_t g_constants[512] = {4, 5, 6};
thread_local std::uint64_t g_local[128 * 1024];  // 1 MiB
}  // namespace

extern "C" __attribute__((visibility("default"))) std::uint64_t* test_bss() {
  return g_zeros;
}

extern "C" __attribute__((visibility("default"))) std::uint64_t* test_data() {
  return g_words;
}

extern "C" __attribute__((visibility("default"))) const std::uint64_t* test_rodata() {
  return g_constants;
}

extern "C" __attribute__((visibility("default"))) std::uint64_t* test_thread_local() {
  return g_local;
}
