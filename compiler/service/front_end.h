// SPDX-License-Identifier: Apache-2.0
// OpenCL C to LLVM bitcode, with clang as a library; and linking of what it made. No LLVM type crosses this interface.
//
// Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "compiler/build_options.h"
#include "compiler/build_request.h"
#include "compiler/program_image.h"

namespace mirrorcl::compiler {

struct FrontEndOutput {
  bool ok = false;
  std::string log;                   // warnings and errors with the program's own file names and lines
  std::vector<std::byte> bitcode;    // an object to link, or a module that PoCL takes
  std::vector<KernelImage> kernels;  // of the latter: everything but automatic_locals and elf
  std::uint64_t global_variables_size = 0;
  bool used_files = false;  // a file was included (or looked for): the result depends on more than the request
};

class FrontEnd {
 public:
  // `target_cpu` is LLVM's name of the processor that PoCL compiles for. Precompiled headers are kept in memory, and in
  // `cache_dir` unless it is empty.
  static std::unique_ptr<FrontEnd> create(std::string target_cpu, std::string cache_dir, std::string scratch_dir);
  ~FrontEnd();
  // kBuild gives a module for PoCL, kCompile an object.
  FrontEndOutput compile(const BuildRequest& request, const BuildOptions& options);

 private:
  FrontEnd();
  // No virtual functions: the implementation is compiled without run-time type information, as LLVM is.
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

// Joins objects and libraries. A library is another object; else it is a module for PoCL.
FrontEndOutput link_objects(const std::vector<ObjectFile>& objects, bool as_library);

}  // namespace mirrorcl::compiler
