// SPDX-License-Identifier: Apache-2.0
// What the compiler makes of a program: one relocatable image per kernel with what OpenCL tells about it, or an object
// to link. Plain data; travels from the compiler service and lies in the disk cache.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mirrorcl::compiler {

struct KernelArgument {
  enum class Kind : std::uint32_t {
    kValue,    // scalar, vector or struct by value: `size` bytes
    kPointer,  // global or constant memory: an address
    kLocal,    // local memory, sized by clSetKernelArg
    kImage,
    kSampler,
    kPipe,
    kQueue,
  };
  Kind kind = Kind::kValue;
  std::uint32_t size = 0;               // bytes of the value (kPointer: 8)
  std::uint32_t address_qualifier = 0;  // CL_KERNEL_ARG_ADDRESS_...
  std::uint32_t access_qualifier = 0;   // CL_KERNEL_ARG_ACCESS_...
  std::uint32_t type_qualifier = 0;     // CL_KERNEL_ARG_TYPE_... bits
  std::string type_name;                // "float*"
  std::string name;
};

struct KernelImage {
  std::string name;
  std::string symbol;  // its name in the object code: another one where `name` is also that of a builtin function
  std::vector<KernelArgument> arguments;
  std::vector<std::uint64_t> automatic_locals;         // bytes of each __local variable declared in the kernel
  std::array<std::uint64_t, 3> required_local_size{};  // reqd_work_group_size, or zeros
  std::array<std::uint64_t, 3> local_size_hint{};      // work_group_size_hint, or zeros
  std::string attributes;                              // as CL_KERNEL_ATTRIBUTES shows them
  bool uses_printf = false;
  bool uniform_work_groups = false;  // OpenCL C before 2.0, or -cl-uniform-work-group-size: no smaller last group
  std::uint64_t private_bytes = 0;   // of a work-item's variables before optimisation: CL_KERNEL_PRIVATE_MEM_SIZE
  std::vector<std::byte> elf;        // ELF shared object; entry _pocl_kernel_NAME_workgroup
};

struct ProgramImage {
  std::vector<KernelImage> kernels;
  std::vector<std::byte> bitcode;           // of an object or library; it has no kernels yet
  bool flush_denormals = false;             // -cl-denorms-are-zero
  std::uint64_t global_variables_size = 0;  // CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE
};

}  // namespace mirrorcl::compiler
