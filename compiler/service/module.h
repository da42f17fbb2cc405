// SPDX-License-Identifier: Apache-2.0
// What the service does to and reads from a clang module before PoCL gets it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compiler/program_image.h"

namespace llvm {
class Module;
}

namespace mirrorcl::compiler {

struct FrontEndOutput;

std::vector<std::byte> to_bitcode(const llvm::Module& module);

// Makes calls of builtins on generic pointers calls of the overloads that PoCL's kernel library has: addressing is
// flat, so the overloads of different address spaces are the same function. Defines to_global(), to_local() and
// to_private().
void resolve_generic_builtins(llvm::Module& module);

// The names of kernels that have another one in the module, by the latter.
using KernelNames = std::map<std::string, std::string>;

// Gives kernels names that PoCL can make file names of.
KernelNames shorten_kernel_names(llvm::Module& module);

// The module's kernels: everything but automatic_locals and elf.
std::vector<KernelImage> describe_kernels(const llvm::Module& module, const KernelNames& shortened);

// The end of a compilation or a link: an object as it is, or a module for PoCL and the description of its kernels.
void finish_module(llvm::Module& module, bool as_object, FrontEndOutput* output);

// Bytes of program-scope variables that are neither constant nor a kernel's local variables.
std::uint64_t global_variables_size(const llvm::Module& module);

}  // namespace mirrorcl::compiler
