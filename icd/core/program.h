// SPDX-License-Identifier: Apache-2.0
// A program object: source or binary, the state of its build, and what the build made.
#pragma once

#include <CL/cl.h>

#include <atomic>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "compiler/client.h"
#include "compiler/loader.h"
#include "compiler/program_image.h"
#include "icd/api/guard.h"
#include "icd/core/object.h"

namespace mirrorcl::icd {

class Runtime;

// The result of a successful build. Shared by the program and its kernels, so that building again leaves running
// kernels alone.
class BuiltProgram {
 public:
  explicit BuiltProgram(compiler::ProgramImage image);

  const compiler::ProgramImage& image() const noexcept { return image_; }
  // The entry of kernel `index` in the device's code space; places it there at the first call.
  Result<std::uint64_t> entry(std::size_t index, Runtime& runtime);
  // Index of the kernel called `name`, or -1.
  std::ptrdiff_t find(std::string_view name) const noexcept;

 private:
  struct Code {
    std::atomic<std::uint64_t> entry{0};             // 0 until loaded
    std::unique_ptr<compiler::LoadedKernel> loaded;  // guarded by mutex_
  };

  const compiler::ProgramImage image_;
  std::mutex mutex_;
  std::deque<Code> code_;  // one per kernel
};

}  // namespace mirrorcl::icd

struct _cl_program : mirrorcl::icd::Object<_cl_program> {
 public:
  static _cl_program* from_source(_cl_context& context, std::string source);
  // For clLinkProgram.
  static _cl_program* empty(_cl_context& context) { return new _cl_program(context); }
  // `binary` as CL_PROGRAM_BINARIES gave it; CL_INVALID_BINARY if it is not one of ours or of another version.
  static mirrorcl::icd::ClResult<_cl_program*> from_binary(_cl_context& context, std::span<const std::byte> binary);

  _cl_context* context() const noexcept { return context_.get(); }
  const std::string& source() const noexcept { return source_; }

  // The beginning of a build, compilation or link (OpenCL 3.0, 5.8.2 to 5.8.4): CL_INVALID_OPERATION while kernels are
  // attached or another one is in progress; CL_INVALID_VALUE if the options are not valid, with the reason in the build
  // log. After CL_SUCCESS exactly one of the next three must be called, by any thread; what it returns is also in the
  // state.
  cl_int begin(mirrorcl::compiler::BuildKind kind, const std::string& options);
  // CL_BUILD_PROGRAM_FAILURE, CL_COMPILER_NOT_AVAILABLE. A program made from the binary of an object or library is
  // linked.
  cl_int build();
  // CL_COMPILE_PROGRAM_FAILURE, CL_COMPILER_NOT_AVAILABLE.
  cl_int compile(std::vector<mirrorcl::compiler::Header> headers);
  // CL_LINK_PROGRAM_FAILURE, CL_LINKER_NOT_AVAILABLE. `objects`: of the programs to link.
  cl_int link(const std::vector<std::shared_ptr<const mirrorcl::compiler::ProgramImage>>& objects,
              const std::string& options);

  struct BuildState {
    cl_build_status status = CL_BUILD_NONE;
    std::string options;
    std::string log;
    cl_program_binary_type binary_type = CL_PROGRAM_BINARY_TYPE_NONE;
    std::shared_ptr<mirrorcl::icd::BuiltProgram> built;              // null unless an executable was built
    std::shared_ptr<const mirrorcl::compiler::ProgramImage> object;  // of a compiled object or library, else null
  };
  BuildState build_state() const;
  // CL_PROGRAM_BINARIES: our container of an executable, object or library; empty if there is none.
  std::vector<std::byte> binary() const;

  bool is_from_binary() const noexcept { return loaded_executable_ != nullptr || loaded_object_ != nullptr; }
  bool has_source() const noexcept { return has_source_; }
  bool has_executable() const noexcept { return loaded_executable_ != nullptr; }

  // Kernel objects that the application holds; while there are any the program cannot be built again.
  void kernel_attached() noexcept { attached_kernels_.fetch_add(1, std::memory_order_relaxed); }
  void kernel_detached() noexcept { attached_kernels_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  explicit _cl_program(_cl_context& context);
  cl_int run(const mirrorcl::compiler::BuildRequest& request, cl_program_binary_type type, cl_int failure);

  mirrorcl::icd::Attached<_cl_context> context_;
  std::string source_;
  bool has_source_ = false;  // made by clCreateProgramWithSource
  // One of them in a program made from a binary.
  std::shared_ptr<mirrorcl::icd::BuiltProgram> loaded_executable_;
  std::shared_ptr<const mirrorcl::compiler::ProgramImage> loaded_object_;
  std::atomic<std::uint32_t> attached_kernels_{0};
  mutable std::mutex mutex_;
  BuildState state_;  // guarded by mutex_
};
