// SPDX-License-Identifier: Apache-2.0
// A kernel object: one kernel of a built program with its arguments.
//
// The arguments are kept as the image of the argument block that the device reads (device/packet.h), so that a launch
// is one allocation in the window, one copy, and a reference for each memory object.
//
// Thread safety: as the specification asks, everything but setting arguments of the same kernel object.
#pragma once

#include <CL/cl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compiler/program_image.h"
#include "device/packet.h"
#include "icd/api/guard.h"
#include "icd/core/object.h"
#include "icd/core/program.h"
#include "mirror/mirror.h"

namespace mirrorcl::icd {

class Runtime;

// What a launch needs from its kernel, taken at enqueue time: later calls of clSetKernelArg and clReleaseKernel do not
// touch it. Owns the argument block; keep it until the dispatch has completed. Move only.
class KernelLaunchState {
 public:
  // CL_INVALID_KERNEL_ARGS if an argument was never set; CL_OUT_OF_RESOURCES if the kernel's code cannot be loaded, its
  // local memory exceeds CL_DEVICE_LOCAL_MEM_SIZE, or the window's heap is used up (the reason is logged). Loads the
  // code at the first call for a kernel.
  static ClResult<KernelLaunchState> capture(_cl_kernel& kernel, Runtime& runtime);

  KernelLaunchState() = default;
  KernelLaunchState(KernelLaunchState&& other) noexcept;
  KernelLaunchState& operator=(KernelLaunchState&& other) noexcept;
  KernelLaunchState(const KernelLaunchState&) = delete;
  KernelLaunchState& operator=(const KernelLaunchState&) = delete;
  ~KernelLaunchState();

  // Frees the argument block and lets go of kernel and memory objects now. Idempotent.
  void reset() noexcept;

  explicit operator bool() const noexcept { return arguments_ != nullptr; }
  std::uint64_t entry() const noexcept { return entry_; }  // Packet::code
  device::ArgumentBlock* arguments() const noexcept { return arguments_; }
  _cl_kernel* kernel() const noexcept { return kernel_.get(); }
  bool uses_printf() const noexcept { return uses_printf_; }
  bool flush_denormals() const noexcept { return flush_denormals_; }
  std::uint64_t local_bytes() const noexcept { return local_bytes_; }  // of local memory, as the unit lays it out

 private:
  static constexpr std::size_t kInlineMemoryObjects = 6;

  void hold(_cl_mem* memory);

  device::ArgumentBlock* arguments_ = nullptr;
  Runtime* runtime_ = nullptr;
  std::uint64_t entry_ = 0;
  std::uint64_t local_bytes_ = 0;
  Ref<_cl_kernel> kernel_;
  bool uses_printf_ = false;
  bool flush_denormals_ = false;
  std::uint32_t memory_count_ = 0;                       // in memory_
  std::array<_cl_mem*, kInlineMemoryObjects> memory_{};  // each holds an internal reference
  std::vector<_cl_mem*> more_memory_;                    // those that did not fit
};

}  // namespace mirrorcl::icd

struct _cl_kernel : mirrorcl::icd::Object<_cl_kernel> {
 public:
  // `index`: of the kernel in program.image().kernels.
  // `devices`: those of the program that have this executable.
  static _cl_kernel* make(_cl_program& program, std::shared_ptr<mirrorcl::icd::BuiltProgram> built,
                          std::vector<cl_device_id> devices, std::size_t index);
  // clCloneKernel: a copy with its own arguments (OpenCL 3.0, 5.9.1).
  _cl_kernel* clone() const;
  ~_cl_kernel();
  // Launches under way do not count as kernels of the program (CL_INVALID_OPERATION of clBuildProgram).
  void on_handle_dead() noexcept;

  _cl_program* program() const noexcept { return program_.get(); }
  _cl_context* context() const noexcept;
  const mirrorcl::compiler::KernelImage& image() const noexcept { return *image_; }
  mirrorcl::icd::BuiltProgram& built() const noexcept { return *built_; }
  // The devices that can run it.
  const std::vector<cl_device_id>& devices() const noexcept { return devices_; }
  bool runs_on(cl_device_id device) const noexcept;
  std::size_t index() const noexcept { return index_; }

  // clSetKernelArg and clSetKernelArgSVMPointer with all their checks (5.9.2).
  cl_int set_argument(cl_uint index, std::size_t size, const void* value);
  cl_int set_svm_argument(cl_uint index, const void* pointer);
  // clSetKernelExecInfo(CL_KERNEL_EXEC_INFO_SVM_PTRS); the pointers stand until the next call.
  void set_svm_pointers(std::vector<void*> pointers) { svm_pointers_ = std::move(pointers); }
  const std::vector<void*>& svm_pointers() const noexcept { return svm_pointers_; }
  // Calls visit(mirror::NamedMemory) for what its next launch names and may have to come to the device.
  template <typename Visit>
  void for_each_named(Visit visit) const {
    for (const mirrorcl::mirror::NamedMemory& named : named_) {
      if (named.address != 0) visit(named);
    }
    for (const void* pointer : svm_pointers_) {
      if (pointer != nullptr) visit(mirrorcl::mirror::NamedMemory{reinterpret_cast<std::uint64_t>(pointer), 0});
    }
  }
  // CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM. Kept for queries by tools; our device reaches any pointer either way.
  void set_system_svm(bool used) noexcept { system_svm_ = used; }

  // Bytes of local memory of one work-group: set so far, and declared in the kernel.
  std::uint64_t local_bytes() const noexcept;
  // CL_KERNEL_WORK_GROUP_SIZE: what the stack of a compute unit holds if every work-item's variables must live at once.
  std::size_t max_work_group_size() const noexcept;

 private:
  friend class mirrorcl::icd::KernelLaunchState;

  _cl_kernel(_cl_program& program, std::shared_ptr<mirrorcl::icd::BuiltProgram> built,
             std::vector<cl_device_id> devices, std::size_t index);
  _cl_kernel(const _cl_kernel& other, int);

  mirrorcl::device::ArgumentBlock* block() noexcept {
    return reinterpret_cast<mirrorcl::device::ArgumentBlock*>(block_.get());
  }
  const mirrorcl::device::ArgumentBlock* block() const noexcept {
    return reinterpret_cast<const mirrorcl::device::ArgumentBlock*>(block_.get());
  }
  std::byte* value_of(cl_uint index) noexcept;
  void set_pointer(cl_uint index, const void* pointer, cl_mem memory) noexcept;
  void mark_set(cl_uint index) noexcept;

  mirrorcl::icd::Attached<_cl_program> program_;
  std::shared_ptr<mirrorcl::icd::BuiltProgram> built_;
  const std::vector<cl_device_id> devices_;
  std::size_t index_;
  const mirrorcl::compiler::KernelImage* image_;  // in built_

  struct FreeDeleter {
    void operator()(void* memory) const noexcept;
  };
  std::unique_ptr<std::byte, FreeDeleter> block_;  // the image of the argument block, 64-byte aligned
  std::vector<bool> is_set_;                       // a set bit: clSetKernelArg was called for this argument
  std::size_t unset_ = 0;                          // cleared bits in is_set_
  // By argument; null for anything but a cl_mem. Not retained (5.9.2: a kernel object must not keep its arguments
  // alive); looked at again at the launch.
  std::vector<cl_mem> memory_;
  // By argument: memory of the application's that it points to; address 0: none.
  std::vector<mirrorcl::mirror::NamedMemory> named_;
  std::vector<void*> svm_pointers_;
  bool system_svm_ = false;
};
