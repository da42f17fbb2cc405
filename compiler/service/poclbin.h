// SPDX-License-Identifier: Apache-2.0
// Reader of PoCL's program binary ("poclbin"): one ELF shared object per kernel and variant, with the kernel's
// description.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace mirrorcl::compiler::pocl {

struct BinaryArgument {
  std::uint32_t access_qualifier = 0;
  std::uint32_t address_qualifier = 0;
  std::uint64_t type_qualifier = 0;
  std::uint32_t type = 0;
  std::uint32_t size = 0;
  std::string name;
  std::string type_name;
};

struct BinaryFile {
  std::string path;  // "/KERNEL/0-0-0/KERNEL.so"
  std::span<const std::byte> content;
};

struct BinaryKernel {
  std::string name;
  std::array<std::uint64_t, 3> required_local_size{};
  std::vector<std::uint64_t>
      local_sizes;  // of the automatic locals, in the order of the arguments that follow the kernel's own
  std::string attributes;
  std::vector<BinaryArgument> arguments;
  std::vector<BinaryFile> files;

  // The shared object that runs any local size; empty if there is none.
  std::span<const std::byte> generic_object() const;
};

struct Binary {
  std::uint64_t device = 0;
  std::uint64_t flags = 0;
  std::vector<BinaryKernel> kernels;  // files point into the bytes given to parse_binary
};

// kInvalidArgument says what is wrong with it; every field is checked against the size of the input.
Result<Binary> parse_binary(std::span<const std::byte> bytes);

}  // namespace mirrorcl::compiler::pocl
