// SPDX-License-Identifier: Apache-2.0
// Everything that MirrorCL knows about one version of PoCL and of the LLVM it uses. Another PoCL needs another of
// these, a look at poclbin.cpp and at prefix.h, and nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace mirrorcl::compiler::pocl {

inline constexpr std::string_view kVersion = "PoCL 3.1";  // in CL_PLATFORM_VERSION: "OpenCL 3.0 PoCL 3.1+debian ..."
inline constexpr std::string_view kLlvmVersion = "LLVM 15.";
inline constexpr const char* kLibrary = "libpocl.so.2";
inline constexpr const char* kTriple = "x86_64-pc-linux-gnu";
inline constexpr const char* kHeaders = "/usr/share/pocl/include";
inline constexpr std::uint32_t kBinaryVersion = 9;
inline constexpr std::string_view kBinaryMagic{"poclbin\0", 8};
inline constexpr std::string_view kGenericVariant =
    "0-0-0";  // the folder of the work-group function for any local size

// The kernel library's builtins are overloaded on named address spaces only.
inline constexpr std::string_view kGenericPointer = "PU9CLgeneric";
inline constexpr std::string_view kPrivatePointer = "PU9CLprivate";
inline constexpr std::string_view kGlobalPointer = "PU8CLglobal";
inline constexpr std::string_view kLocalPointer = "PU7CLlocal";

// Its environment: no cache of its own beyond the folder given, one thread, no signal handlers.
struct Setting {
  const char* name;
  const char* value;
};
inline constexpr std::array<Setting, 5> kEnvironment{{{"POCL_DEVICES", "basic"},
                                                      {"POCL_KERNEL_CACHE", "0"},
                                                      {"POCL_SIGFPE_HANDLER", "0"},
                                                      {"POCL_SIGUSR2_HANDLER", "0"},
                                                      {"POCL_WORK_GROUP_METHOD", "loopvec"}}};

}  // namespace mirrorcl::compiler::pocl
