// SPDX-License-Identifier: Apache-2.0
// A program object: source or binary, the state of its build, and what the build made.
#pragma once

#include <CL/cl.h>

#include <atomic>
#include <cstddef>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "compiler/client.h"
#include "compiler/loader.h"
#include "compiler/program_image.h"
#include "icd/api/guard.h"
#include "icd/core/object.h"

namespace mirrorcl::icd {

class Runtime;
struct BinaryContents;

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
  Mutex mutex_;
  std::deque<Code> code_;  // one per kernel
};

}  // namespace mirrorcl::icd

struct _cl_program : mirrorcl::icd::Object<_cl_program> {
 public:
  // Of the devices that a program is for. A set bit: the device of this index in devices().
  using DeviceSet = std::uint32_t;
  struct DeviceBinary {
    cl_device_id device;
    std::span<const std::byte> bytes;
  };

  // For all devices of the context.
  static _cl_program* from_source(_cl_context& context, std::string source);
  // For clLinkProgram.
  static _cl_program* empty(_cl_context& context, std::vector<cl_device_id> devices);
  // `binaries` as CL_PROGRAM_BINARIES gave them, at most one for each device; CL_INVALID_BINARY if one is not ours or
  // of another version. `statuses`: null, or an element for each binary: what is wrong with it.
  static mirrorcl::icd::ClResult<_cl_program*> from_binaries(_cl_context& context,
                                                             std::span<const DeviceBinary> binaries, cl_int* statuses);

  _cl_context* context() const noexcept { return context_.get(); }
  const std::string& source() const noexcept { return source_; }
  // What it is for (CL_PROGRAM_DEVICES).
  const std::vector<cl_device_id>& devices() const noexcept { return devices_; }
  DeviceSet all_devices() const noexcept { return (DeviceSet{1} << devices_.size()) - 1; }
  // 0 if it is not for `device`.
  DeviceSet set_of(cl_device_id device) const noexcept;

  // The beginning of a build, compilation or link (OpenCL 3.0, 5.8.2 to 5.8.4) for `devices`: CL_INVALID_OPERATION
  // while kernels are attached or another one is in progress for one of them; CL_INVALID_VALUE if the options are not
  // valid, with the reason in the build log. After CL_SUCCESS each of the devices must be in exactly one call of the
  // next three, by any thread; what it returns is also in the state.
  cl_int begin(mirrorcl::compiler::BuildKind kind, const std::string& options, DeviceSet devices);
  // CL_BUILD_PROGRAM_FAILURE, CL_COMPILER_NOT_AVAILABLE. A program made from the binary of an object or library is
  // linked.
  cl_int build(DeviceSet devices);
  // CL_COMPILE_PROGRAM_FAILURE, CL_COMPILER_NOT_AVAILABLE.
  cl_int compile(std::vector<mirrorcl::compiler::Header> headers, DeviceSet devices);
  // CL_LINK_PROGRAM_FAILURE, CL_LINKER_NOT_AVAILABLE. `objects`: of the programs to link.
  using Objects = std::vector<std::shared_ptr<const mirrorcl::compiler::ProgramImage>>;
  cl_int link(const Objects& objects, const std::string& options, DeviceSet devices);

  struct BuildState {
    cl_build_status status = CL_BUILD_NONE;
    std::string options;
    std::string log;
    cl_program_binary_type binary_type = CL_PROGRAM_BINARY_TYPE_NONE;
    std::shared_ptr<mirrorcl::icd::BuiltProgram> built;              // null unless an executable was built
    std::shared_ptr<const mirrorcl::compiler::ProgramImage> object;  // of a compiled object or library, else null
  };
  // Of one of devices().
  BuildState build_state(cl_device_id device) const;
  // The executable of the first device that has one, and the devices that have the same; null and none.
  std::pair<std::shared_ptr<mirrorcl::icd::BuiltProgram>, std::vector<cl_device_id>> executable() const;
  // CL_PROGRAM_BINARIES for one of devices(): our container of an executable, object or library; empty if there is
  // none.
  std::vector<std::byte> binary(cl_device_id device) const;

  bool has_source() const noexcept { return has_source_; }
  // The executables of all `devices` were loaded: building them needs no compiler.
  bool has_executables(DeviceSet devices) const noexcept;

  // Kernel objects that the application holds; while there are any the program cannot be built again.
  void kernel_attached() noexcept { attached_kernels_.fetch_add(1, std::memory_order_relaxed); }
  void kernel_detached() noexcept { attached_kernels_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  // For one device. What was loaded does not change.
  struct DeviceBuild {
    BuildState state;
    // One of them if the program was made from binaries.
    std::shared_ptr<mirrorcl::icd::BuiltProgram> loaded_executable;
    std::shared_ptr<const mirrorcl::compiler::ProgramImage> loaded_object;
  };

  _cl_program(_cl_context& context, std::vector<cl_device_id> devices);
  static DeviceBuild load(mirrorcl::icd::BinaryContents contents);
  std::size_t index_of(cl_device_id device) const noexcept;
  const DeviceBuild& first_of(DeviceSet devices) const noexcept;
  // Those of `devices` for which the same was loaded as for the first of them.
  DeviceSet alike(DeviceSet devices) const noexcept;
  cl_int build_alike(DeviceSet devices);
  bool take_from_others(const std::string& options, DeviceSet devices);
  cl_int run(const mirrorcl::compiler::BuildRequest& request, cl_program_binary_type type, cl_int failure,
             DeviceSet devices);
  // Options stay.
  void finish(BuildState next, DeviceSet devices);
  void finish_locked(BuildState next, DeviceSet devices) MIRRORCL_REQUIRES(mutex_);

  mirrorcl::icd::Attached<_cl_context> context_;
  const std::vector<cl_device_id> devices_;
  std::string source_;
  bool has_source_ = false;  // made by clCreateProgramWithSource
  std::atomic<std::uint32_t> attached_kernels_{0};
  mutable mirrorcl::Mutex mutex_;
  std::vector<DeviceBuild> builds_;  // in the order of devices_; their states are guarded by mutex_
};
