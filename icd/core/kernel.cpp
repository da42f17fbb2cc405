// SPDX-License-Identifier: Apache-2.0
#include "icd/core/kernel.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/log.h"
#include "device/cpu/firmware/layout.h"
#include "icd/core/context.h"
#include "icd/core/memory.h"
#include "icd/core/runtime.h"

using mirrorcl::compiler::KernelArgument;
using mirrorcl::compiler::KernelImage;
using mirrorcl::device::Argument;
using mirrorcl::device::ArgumentBlock;

namespace {

constexpr std::size_t kBlockAlignment = 64;     // of the window's heap; no register load of a value asks for more
constexpr std::uint64_t kLocalAlignment = 128;  // device/packet.h: units lay out local memory in steps of this

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// Bytes that an argument's value takes in the block: nothing for local memory, which units provide.
std::size_t value_size(const KernelArgument& argument) {
  switch (argument.kind) {
    case KernelArgument::Kind::kValue:
      return argument.size;
    case KernelArgument::Kind::kLocal:
      return 0;
    default:
      return sizeof(std::uint64_t);  // addresses and handles
  }
}

std::size_t value_alignment(std::size_t size) {
  return std::min(std::bit_ceil(std::max<std::size_t>(size, 8)), kBlockAlignment);
}

// Lays out the block's image: head, arguments, values.
ArgumentBlock* make_block(const KernelImage& image) {
  const std::size_t count = image.arguments.size() + image.automatic_locals.size();
  std::size_t end = sizeof(ArgumentBlock) + count * sizeof(Argument);
  std::vector<Argument> arguments;
  arguments.reserve(count);
  for (const KernelArgument& argument : image.arguments) {
    const std::size_t size = value_size(argument);
    if (argument.kind == KernelArgument::Kind::kLocal) {
      arguments.push_back({Argument::Kind::kLocal, 0, 0});
      continue;
    }
    end = round_up(end, value_alignment(size));
    arguments.push_back({Argument::Kind::kValue, static_cast<std::uint32_t>(end), size});
    end += size;
  }
  for (const std::uint64_t size : image.automatic_locals) arguments.push_back({Argument::Kind::kLocal, 0, size});

  end = round_up(end, kBlockAlignment);
  void* memory = std::aligned_alloc(kBlockAlignment, end);
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, end);
  auto* block = new (memory) ArgumentBlock{static_cast<std::uint32_t>(count), static_cast<std::uint32_t>(end)};
  std::ranges::copy(arguments, block->arguments());
  return block;
}

}  // namespace

void _cl_kernel::FreeDeleter::operator()(void* memory) const noexcept {
  std::free(memory);
}

_cl_kernel* _cl_kernel::make(_cl_program& program, std::shared_ptr<mirrorcl::icd::BuiltProgram> built,
                             std::vector<cl_device_id> devices, std::size_t index) {
  return new _cl_kernel(program, std::move(built), std::move(devices), index);
}

_cl_kernel::_cl_kernel(_cl_program& program, std::shared_ptr<mirrorcl::icd::BuiltProgram> built,
                       std::vector<cl_device_id> devices, std::size_t index)
    : Object(program.dispatch_data()),
      program_(&program),
      built_(std::move(built)),
      devices_(std::move(devices)),
      index_(index),
      image_(&built_->image().kernels[index]),
      block_(reinterpret_cast<std::byte*>(make_block(*image_))),
      is_set_(image_->arguments.size(), false),
      unset_(image_->arguments.size()),
      memory_(image_->arguments.size(), nullptr),
      named_(image_->arguments.size()) {
  program.kernel_attached();
}

_cl_kernel* _cl_kernel::clone() const {
  auto* copy = make(*program_, built_, devices_, index_);
  std::memcpy(copy->block_.get(), block_.get(), block()->size);
  copy->is_set_ = is_set_;
  copy->unset_ = unset_;
  copy->memory_ = memory_;
  copy->named_ = named_;
  copy->svm_pointers_ = svm_pointers_;
  copy->system_svm_ = system_svm_;
  return copy;
}

_cl_kernel::~_cl_kernel() = default;

bool _cl_kernel::runs_on(cl_device_id device) const noexcept {
  return std::ranges::find(devices_, device) != devices_.end();
}

void _cl_kernel::on_handle_dead() noexcept {
  program_->kernel_detached();
}

_cl_context* _cl_kernel::context() const noexcept {
  return program_->context();
}

std::byte* _cl_kernel::value_of(cl_uint index) noexcept {
  return block_.get() + block()->arguments()[index].offset;
}

void _cl_kernel::mark_set(cl_uint index) noexcept {
  if (is_set_[index]) return;
  is_set_[index] = true;
  --unset_;
}

void _cl_kernel::set_pointer(cl_uint index, const void* pointer, cl_mem memory) noexcept {
  std::memcpy(value_of(index), &pointer, sizeof pointer);
  memory_[index] = memory;
  // Buffers of the driver's own are where every device has them.
  const bool own = memory == nullptr || memory->host_ptr() != nullptr;
  named_[index] = {own ? reinterpret_cast<std::uint64_t>(pointer) : 0, memory != nullptr ? memory->size() : 0};
  mark_set(index);
}

cl_int _cl_kernel::set_argument(cl_uint index, std::size_t size, const void* value) {
  MIRRORCL_GUARD(index < image_->arguments.size(), CL_INVALID_ARG_INDEX);
  const KernelArgument& argument = image_->arguments[index];
  switch (argument.kind) {
    case KernelArgument::Kind::kValue:
      MIRRORCL_GUARD(value != nullptr, CL_INVALID_ARG_VALUE);
      MIRRORCL_GUARD(size == argument.size, CL_INVALID_ARG_SIZE);
      std::memcpy(value_of(index), value, size);
      mark_set(index);
      return CL_SUCCESS;

    case KernelArgument::Kind::kPointer: {
      MIRRORCL_GUARD(size == sizeof(cl_mem), CL_INVALID_ARG_SIZE);
      cl_mem memory = nullptr;  // null, or a pointer to null: a null pointer in the kernel
      if (value != nullptr) std::memcpy(&memory, value, sizeof memory);
      if (memory == nullptr) {
        set_pointer(index, nullptr, nullptr);
        return CL_SUCCESS;
      }
      MIRRORCL_VALID(memory);
      MIRRORCL_GUARD(memory->context() == context(), CL_INVALID_MEM_OBJECT);
      set_pointer(index, memory->address(), memory);
      return CL_SUCCESS;
    }

    case KernelArgument::Kind::kLocal:
      MIRRORCL_GUARD(value == nullptr, CL_INVALID_ARG_VALUE);
      MIRRORCL_GUARD(size != 0, CL_INVALID_ARG_SIZE);
      block()->arguments()[index].size = size;
      mark_set(index);
      return CL_SUCCESS;

    // No object of these kinds can exist: the device has no images, pipes or queues of its own.
    case KernelArgument::Kind::kImage:
    case KernelArgument::Kind::kPipe:
      return size == sizeof(cl_mem) ? CL_INVALID_MEM_OBJECT : CL_INVALID_ARG_SIZE;
    case KernelArgument::Kind::kSampler:
      return size == sizeof(cl_sampler) ? CL_INVALID_SAMPLER : CL_INVALID_ARG_SIZE;
    case KernelArgument::Kind::kQueue:
      return size == sizeof(cl_command_queue) ? CL_INVALID_DEVICE_QUEUE : CL_INVALID_ARG_SIZE;
  }
  return CL_INVALID_ARG_VALUE;
}

cl_int _cl_kernel::set_svm_argument(cl_uint index, const void* pointer) {
  MIRRORCL_GUARD(index < image_->arguments.size(), CL_INVALID_ARG_INDEX);
  MIRRORCL_GUARD(image_->arguments[index].kind == KernelArgument::Kind::kPointer, CL_INVALID_ARG_VALUE);
  set_pointer(index, pointer, nullptr);  // any address of the process is one that the device can reach
  return CL_SUCCESS;
}

std::uint64_t _cl_kernel::local_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < block()->count; ++i) {
    const Argument& argument = block()->arguments()[i];
    if (argument.kind != Argument::Kind::kLocal) continue;
    if (__builtin_add_overflow(bytes, argument.size, &bytes) || bytes > UINT64_MAX - kLocalAlignment) return UINT64_MAX;
    bytes = round_up(bytes, kLocalAlignment);
  }
  return bytes;
}

std::size_t _cl_kernel::max_work_group_size() const noexcept {
  constexpr std::uint64_t kReserve = 64 * 1024;  // for the work-group function itself and what it calls
  const std::uint64_t items =
      (mirrorcl::firmware::kKernelStackSize - kReserve) / std::max<std::uint64_t>(image_->private_bytes, 1);
  return std::clamp<std::uint64_t>(items, 1, _cl_device_id::kMaxWorkGroupSize);
}

namespace mirrorcl::icd {

ClResult<KernelLaunchState> KernelLaunchState::capture(_cl_kernel& kernel, Runtime& runtime) {
  MIRRORCL_GUARD(kernel.unset_ == 0, CL_INVALID_KERNEL_ARGS);
  const std::uint64_t local_bytes = kernel.local_bytes();
  if (local_bytes != 0 && local_bytes > kernel.context()->devices().front()->facts().local_memory_size) {
    log_error("kernel {}: {} bytes of local memory are more than CL_DEVICE_LOCAL_MEM_SIZE", kernel.image().name,
              local_bytes);
    return ClError{CL_OUT_OF_RESOURCES};
  }
  auto entry = kernel.built_->entry(kernel.index_, runtime);
  if (!entry) {
    log_error("kernel {} cannot be loaded: {}", kernel.image().name, entry.error().message);
    return ClError{CL_OUT_OF_RESOURCES};
  }

  KernelLaunchState state;
  state.kernel_ = Ref<_cl_kernel>(&kernel);
  for (cl_uint i = 0; i < kernel.memory_.size(); ++i) {
    cl_mem memory = kernel.memory_[i];
    if (memory == nullptr) continue;
    // The second condition: the handle may be that of a newer object by now.
    std::byte* address = nullptr;
    std::memcpy(&address, kernel.value_of(i), sizeof address);
    if (!is_valid(memory) || memory->address() != address) {
      log_error("kernel {}: a memory object given as argument was released before the launch", kernel.image().name);
      return ClError{CL_INVALID_KERNEL_ARGS};
    }
    state.hold(memory);
  }

  const ArgumentBlock* image = kernel.block();
  void* block = runtime.any_device().allocate(image->size);
  if (block == nullptr) {
    log_error("the window's heap is used up: no room for {} bytes of arguments", image->size);
    return ClError{CL_OUT_OF_RESOURCES};
  }
  std::memcpy(block, image, image->size);
  state.arguments_ = static_cast<ArgumentBlock*>(block);
  state.runtime_ = &runtime;
  state.entry_ = *entry;
  state.local_bytes_ = local_bytes;
  state.uses_printf_ = kernel.image().uses_printf;
  state.flush_denormals_ = kernel.built_->image().flush_denormals;
  return state;
}

void KernelLaunchState::hold(_cl_mem* memory) {
  memory->retain();
  if (memory_count_ < memory_.size()) {
    memory_[memory_count_++] = memory;
  } else {
    more_memory_.push_back(memory);
  }
}

void KernelLaunchState::reset() noexcept {
  if (arguments_ != nullptr) runtime_->any_device().free(std::exchange(arguments_, nullptr));
  for (std::uint32_t i = 0; i < memory_count_; ++i) memory_[i]->release();
  memory_count_ = 0;
  for (_cl_mem* memory : more_memory_) memory->release();
  more_memory_.clear();
  kernel_ = {};
}

KernelLaunchState::KernelLaunchState(KernelLaunchState&& other) noexcept {
  *this = std::move(other);
}

KernelLaunchState& KernelLaunchState::operator=(KernelLaunchState&& other) noexcept {
  if (this == &other) return *this;
  reset();
  arguments_ = std::exchange(other.arguments_, nullptr);
  runtime_ = other.runtime_;
  entry_ = other.entry_;
  local_bytes_ = other.local_bytes_;
  kernel_ = std::move(other.kernel_);
  uses_printf_ = other.uses_printf_;
  flush_denormals_ = other.flush_denormals_;
  memory_count_ = std::exchange(other.memory_count_, 0);
  memory_ = other.memory_;
  more_memory_ = std::move(other.more_memory_);
  other.more_memory_.clear();
  return *this;
}

KernelLaunchState::~KernelLaunchState() {
  reset();
}

}  // namespace mirrorcl::icd
