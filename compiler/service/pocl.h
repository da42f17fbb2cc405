// SPDX-License-Identifier: Apache-2.0
// PoCL as a work-group compiler: LLVM bitcode in, one ELF shared object per kernel out. The library is loaded by its
// path and driven through the dispatch table of its platform; no ICD loader is involved.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace mirrorcl::compiler::pocl {

struct CompiledProgram {
  bool ok = false;
  std::string log;                // why not: undefined functions by name
  std::vector<std::byte> binary;  // a poclbin
};

class Pocl {
 public:
  // `library`: path of libpocl, or its soname. PoCL writes its temporary files under `scratch_dir`. Sets PoCL's
  // environment variables: call it before other threads run. kNotSupported: missing, or not the version that MirrorCL
  // knows.
  static Result<std::unique_ptr<Pocl>> load(const std::string& library, const std::string& scratch_dir);
  virtual ~Pocl() = default;
  // LLVM's name of the processor that code is made for.
  virtual std::string target_cpu() const = 0;
  // Only errors of the compiler itself are errors here; an undefined function is a log. The module must have a kernel.
  virtual Result<CompiledProgram> compile(std::span<const std::byte> bitcode) = 0;
};

}  // namespace mirrorcl::compiler::pocl
