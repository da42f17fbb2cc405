// SPDX-License-Identifier: Apache-2.0
// The ELF loader: places a kernel's shared object in the device's code space, relocates it there and finds its entry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace mirrorcl::compiler {

// Where code goes and what it may call. CpuDevice offers both; tests use their own.
struct CodeSpace {
  std::function<void*(std::size_t bytes)> allocate;  // page aligned, null when used up
  std::function<void(void* memory)> free;
  std::function<std::uint64_t(const char* name)> find_symbol;  // 0 if unknown
  // Whole pages of an allocation hold their final instructions: they may be executed and no longer written. Null where
  // code needs nothing of the kind.
  std::function<Result<void>(void* start, std::size_t bytes)> make_executable = nullptr;
};

class LoadedKernel {
 public:
  virtual ~LoadedKernel() = default;  // frees the code space; no dispatch may be running it
  virtual std::uint64_t entry() const noexcept = 0;
  virtual std::size_t code_bytes() const noexcept = 0;
};

// `elf` as in KernelImage::elf, `kernel` the OpenCL name. Errors: kInvalidArgument for a malformed image, kNotSupported
// for an unknown relocation or a missing symbol (named), kOutOfDeviceMemory, and make_executable's.
Result<std::unique_ptr<LoadedKernel>> load_kernel(std::span<const std::byte> elf, const std::string& kernel,
                                                  const CodeSpace& space);

}  // namespace mirrorcl::compiler
