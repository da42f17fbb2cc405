// SPDX-License-Identifier: Apache-2.0
#include "icd/core/program.h"

#include <algorithm>
#include <bit>

#include "base/log.h"
#include "compiler/build_options.h"
#include "compiler/bytes.h"
#include "compiler/protocol.h"
#include "icd/core/context.h"
#include "icd/core/runtime.h"

using mirrorcl::Result;
using mirrorcl::ScopedLock;
using mirrorcl::compiler::BuildKind;
using mirrorcl::compiler::BuildRequest;
using mirrorcl::compiler::Header;
using mirrorcl::compiler::ProgramImage;

namespace mirrorcl::icd {

BuiltProgram::BuiltProgram(compiler::ProgramImage image) : image_(std::move(image)) {
  for (std::size_t i = 0; i < image_.kernels.size(); ++i) code_.emplace_back();
}

std::ptrdiff_t BuiltProgram::find(std::string_view name) const noexcept {
  const auto found = std::ranges::find(image_.kernels, name, &compiler::KernelImage::name);
  return found == image_.kernels.end() ? -1 : found - image_.kernels.begin();
}

Result<std::uint64_t> BuiltProgram::entry(std::size_t index, Runtime& runtime) {
  Code& code = code_[index];
  if (const std::uint64_t entry = code.entry.load(std::memory_order_acquire); entry != 0) return entry;
  ScopedLock lock(mutex_);
  if (const std::uint64_t entry = code.entry.load(std::memory_order_relaxed); entry != 0) return entry;
  const compiler::KernelImage& kernel = image_.kernels[index];
  auto loaded = compiler::load_kernel(kernel.elf, kernel.symbol, runtime.code_space());
  if (!loaded) return tl::unexpected(loaded.error());
  code.loaded = std::move(*loaded);
  code.entry.store(code.loaded->entry(), std::memory_order_release);
  return code.loaded->entry();
}

namespace {

// One for the process; never destroyed, since programs may be built while static objects are. The service ends with the
// process.
compiler::Client& compiler_client() {
  static compiler::Client* const client = compiler::Client::create().release();
  return *client;
}

// --- the container of CL_PROGRAM_BINARIES: head, then a checksummed body. Made for the processor that it was built on.
constexpr std::uint64_t kBinaryMagic = 0x4c435252'4f52494d;  // "MIRORRCL"
constexpr std::uint32_t kBinaryVersion = 2;

// FNV-1a: damage, not malice, is what it finds; who may hand a program a binary may run code in it anyway.
std::uint64_t checksum(std::span<const std::byte> bytes) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3;
  return hash;
}

std::string target_of(const _cl_context& context) {
  return context.devices().front()->facts().name;
}

std::vector<std::byte> write_binary(const _cl_context& context, cl_program_binary_type type,
                                    const compiler::ProgramImage& image, const std::string& options) {
  compiler::ByteWriter body;
  body.text(MIRRORCL_VERSION);
  body.text(target_of(context));
  body.number(type);
  body.text(options);
  compiler::write_image(body, image);
  compiler::ByteWriter out;
  out.number(kBinaryMagic);
  out.number(kBinaryVersion);
  out.number(checksum(body.bytes()));
  out.blob(body.bytes());
  return out.take();
}

}  // namespace

struct BinaryContents {
  cl_program_binary_type type = CL_PROGRAM_BINARY_TYPE_NONE;
  std::string options;
  compiler::ProgramImage image;
};

namespace {

// kInvalidArgument with the reason.
Result<BinaryContents> read_binary(const _cl_context& context, std::span<const std::byte> binary) {
  compiler::ByteReader in(binary);
  if (in.number<std::uint64_t>() != kBinaryMagic) return fail(ErrorCode::kInvalidArgument, "not a MirrorCL binary");
  if (in.number<std::uint32_t>() != kBinaryVersion) {
    return fail(ErrorCode::kInvalidArgument, "made by another version of MirrorCL");
  }
  const auto expected = in.number<std::uint64_t>();
  const std::vector<std::byte> bytes = in.blob();
  if (!in.at_end() || checksum(bytes) != expected) return fail(ErrorCode::kInvalidArgument, "the binary is damaged");
  compiler::ByteReader body(bytes);
  if (body.text() != MIRRORCL_VERSION) {
    return fail(ErrorCode::kInvalidArgument, "made by another version of MirrorCL");
  }
  if (body.text() != target_of(context)) return fail(ErrorCode::kInvalidArgument, "made for another processor");
  BinaryContents contents;
  contents.type = body.number<cl_program_binary_type>();
  contents.options = body.text();
  contents.image = compiler::read_image(body);
  if (!body.at_end()) return fail(ErrorCode::kInvalidArgument, "the binary is damaged");
  return contents;
}

// The code for a build that failed, and a line in the log.
cl_int code_of(const Error& error, BuildKind kind, cl_int failure) {
  switch (error.code) {
    case ErrorCode::kBuildFailed:
      log_info("build failed: {}", error.message);
      return failure;
    case ErrorCode::kOutOfHostMemory:
      return CL_OUT_OF_HOST_MEMORY;
    case ErrorCode::kNotSupported:
      log_error("the compiler is not available: {}", error.message);
      return kind == BuildKind::kLink ? CL_LINKER_NOT_AVAILABLE : CL_COMPILER_NOT_AVAILABLE;
    default:
      log_error("the compiler failed: {}", error.message);
      return failure;
  }
}

}  // namespace
}  // namespace mirrorcl::icd

using namespace mirrorcl::icd;

_cl_program::_cl_program(_cl_context& context, std::vector<cl_device_id> devices)
    : Object(context.dispatch_data()), context_(&context), devices_(std::move(devices)), builds_(devices_.size()) {}

_cl_program* _cl_program::from_source(_cl_context& context, std::string source) {
  auto* program = new _cl_program(context, context.devices());
  program->source_ = std::move(source);
  program->has_source_ = true;
  return program;
}

_cl_program* _cl_program::empty(_cl_context& context, std::vector<cl_device_id> devices) {
  return new _cl_program(context, std::move(devices));
}

_cl_program::DeviceBuild _cl_program::load(BinaryContents contents) {
  DeviceBuild build;
  build.state.options = std::move(contents.options);
  build.state.binary_type = contents.type;
  if (contents.type == CL_PROGRAM_BINARY_TYPE_EXECUTABLE) {
    build.loaded_executable = std::make_shared<BuiltProgram>(std::move(contents.image));
  } else {
    build.loaded_object = std::make_shared<ProgramImage>(std::move(contents.image));
    build.state.object = build.loaded_object;
  }
  return build;
}

ClResult<_cl_program*> _cl_program::from_binaries(_cl_context& context, std::span<const DeviceBinary> binaries,
                                                  cl_int* statuses) {
  std::vector<cl_device_id> devices;
  std::vector<DeviceBuild> builds;
  bool valid = true;
  for (std::size_t i = 0; i < binaries.size(); ++i) {
    devices.push_back(binaries[i].device);
    const auto earlier =
        std::find_if(binaries.begin(), binaries.begin() + static_cast<std::ptrdiff_t>(i),
                     [&](const auto& other) { return std::ranges::equal(other.bytes, binaries[i].bytes); });
    const auto same = static_cast<std::size_t>(earlier - binaries.begin());
    // Mostly all devices get the same: then they share what is made of it.
    if (same < builds.size()) {
      builds.push_back(builds[same]);
      if (statuses != nullptr) statuses[i] = statuses[same];
      continue;
    }
    auto contents = read_binary(context, binaries[i].bytes);
    if (statuses != nullptr) statuses[i] = contents ? CL_SUCCESS : CL_INVALID_BINARY;
    builds.push_back(contents ? load(std::move(*contents)) : DeviceBuild{});
    if (contents) continue;
    mirrorcl::log_warning("clCreateProgramWithBinary: {}", contents.error().message);
    valid = false;
  }
  if (!valid) return tl::unexpected<cl_int>(CL_INVALID_BINARY);
  auto* program = new _cl_program(context, std::move(devices));
  program->builds_ = std::move(builds);
  return program;
}

// --- which devices

std::size_t _cl_program::index_of(cl_device_id device) const noexcept {
  return static_cast<std::size_t>(std::ranges::find(devices_, device) - devices_.begin());
}

_cl_program::DeviceSet _cl_program::set_of(cl_device_id device) const noexcept {
  const std::size_t index = index_of(device);
  return index < devices_.size() ? DeviceSet{1} << index : 0;
}

const _cl_program::DeviceBuild& _cl_program::first_of(DeviceSet devices) const noexcept {
  return builds_[static_cast<std::size_t>(std::countr_zero(devices))];
}

_cl_program::DeviceSet _cl_program::alike(DeviceSet devices) const noexcept {
  const DeviceBuild& first = first_of(devices);
  DeviceSet result = 0;
  for (std::size_t i = 0; i < builds_.size(); ++i) {
    const bool same =
        builds_[i].loaded_executable == first.loaded_executable && builds_[i].loaded_object == first.loaded_object;
    if (same) result |= devices & DeviceSet{1} << i;
  }
  return result;
}

bool _cl_program::has_executables(DeviceSet devices) const noexcept {
  for (std::size_t i = 0; i < builds_.size(); ++i) {
    if ((devices & DeviceSet{1} << i) != 0 && !builds_[i].loaded_executable) return false;
  }
  return true;
}

// --- builds

cl_int _cl_program::begin(BuildKind kind, const std::string& options, DeviceSet devices) {
  const auto valid = compiler_client().check_options(kind, options);
  BuildState begun;
  begun.options = options;
  begun.status = valid ? CL_BUILD_IN_PROGRESS : CL_BUILD_ERROR;
  if (!valid) begun.log = valid.error().message + "\n";
  ScopedLock lock(mutex_);
  if (attached_kernels_.load(std::memory_order_relaxed) != 0) return CL_INVALID_OPERATION;
  for (std::size_t i = 0; i < builds_.size(); ++i) {
    const bool concerned = (devices & DeviceSet{1} << i) != 0;
    if (concerned && builds_[i].state.status == CL_BUILD_IN_PROGRESS) return CL_INVALID_OPERATION;
  }
  for (std::size_t i = 0; i < builds_.size(); ++i) {
    if ((devices & DeviceSet{1} << i) != 0) builds_[i].state = begun;
  }
  return valid ? CL_SUCCESS : CL_INVALID_VALUE;
}

void _cl_program::finish(BuildState next, DeviceSet devices) {
  ScopedLock lock(mutex_);
  finish_locked(std::move(next), devices);
}

void _cl_program::finish_locked(BuildState next, DeviceSet devices) {
  for (std::size_t i = 0; i < builds_.size(); ++i) {
    if ((devices & DeviceSet{1} << i) == 0) continue;
    next.options = std::move(builds_[i].state.options);
    builds_[i].state = next;
  }
}

cl_int _cl_program::build(DeviceSet devices) {
  cl_int result = CL_SUCCESS;
  while (devices != 0) {
    const DeviceSet now = alike(devices);
    if (const cl_int code = build_alike(now); code != CL_SUCCESS) result = code;
    devices &= ~now;
  }
  return result;
}

cl_int _cl_program::build_alike(DeviceSet devices) {
  const DeviceBuild& first = first_of(devices);
  if (first.loaded_object) return link({first.loaded_object}, "", devices);
  if (first.loaded_executable) {
    // Built already; building it again with other options changes nothing but the options shown.
    finish({CL_BUILD_SUCCESS, "", "", CL_PROGRAM_BINARY_TYPE_EXECUTABLE, first.loaded_executable, nullptr}, devices);
    return CL_SUCCESS;
  }
  const std::string options = build_state(devices_[static_cast<std::size_t>(std::countr_zero(devices))]).options;
  if (take_from_others(options, devices)) return CL_SUCCESS;
  return run({source_, options}, CL_PROGRAM_BINARY_TYPE_EXECUTABLE, CL_BUILD_PROGRAM_FAILURE, devices);
}

// All devices are of one kind: what was built of the source for another one serves these too.
bool _cl_program::take_from_others(const std::string& options, DeviceSet devices) {
  ScopedLock lock(mutex_);
  for (std::size_t i = 0; i < builds_.size(); ++i) {
    const BuildState& other = builds_[i].state;
    const bool serves = (devices & DeviceSet{1} << i) == 0 && other.status == CL_BUILD_SUCCESS && other.built &&
                        !builds_[i].loaded_executable && !builds_[i].loaded_object && other.options == options;
    if (!serves) continue;
    finish_locked(other, devices);
    return true;
  }
  return false;
}

cl_int _cl_program::compile(std::vector<Header> headers, DeviceSet devices) {
  const std::string options = build_state(devices_[static_cast<std::size_t>(std::countr_zero(devices))]).options;
  return run({source_, options, BuildKind::kCompile, std::move(headers)}, CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT,
             CL_COMPILE_PROGRAM_FAILURE, devices);
}

cl_int _cl_program::link(const Objects& objects, const std::string& options, DeviceSet devices) {
  BuildRequest request{"", options, BuildKind::kLink};
  for (const auto& object : objects) request.objects.push_back({object->bitcode, object->flush_denormals});
  const auto parsed = mirrorcl::compiler::parse_link_options(options);
  const bool library = parsed && parsed->create_library;
  return run(request, library ? CL_PROGRAM_BINARY_TYPE_LIBRARY : CL_PROGRAM_BINARY_TYPE_EXECUTABLE,
             first_of(devices).loaded_object ? CL_BUILD_PROGRAM_FAILURE : CL_LINK_PROGRAM_FAILURE, devices);
}

// By the one thread that has begun the build. `type`: of what comes out; `failure`: the code for an error of the
// program.
cl_int _cl_program::run(const BuildRequest& request, cl_program_binary_type type, cl_int failure, DeviceSet devices) {
  auto outcome = compiler_client().build(request);
  BuildState next;
  next.log = std::move(outcome.log);
  cl_int result = CL_SUCCESS;
  if (!outcome.image) {
    next.status = CL_BUILD_ERROR;
    if (next.log.empty()) next.log = outcome.image.error().message;
    result = code_of(outcome.image.error(), request.kind, failure);
  } else {
    next.status = CL_BUILD_SUCCESS;
    next.binary_type = type;
    if (type == CL_PROGRAM_BINARY_TYPE_EXECUTABLE) {
      next.built = std::make_shared<BuiltProgram>(std::move(*outcome.image));
    } else {
      next.object = std::make_shared<ProgramImage>(std::move(*outcome.image));
    }
  }
  finish(std::move(next), devices);
  return result;
}

// --- what was built

_cl_program::BuildState _cl_program::build_state(cl_device_id device) const {
  ScopedLock lock(mutex_);
  return builds_[index_of(device)].state;
}

std::pair<std::shared_ptr<BuiltProgram>, std::vector<cl_device_id>> _cl_program::executable() const {
  ScopedLock lock(mutex_);
  std::shared_ptr<BuiltProgram> built;
  std::vector<cl_device_id> devices;
  for (std::size_t i = 0; i < builds_.size(); ++i) {
    if (!built) built = builds_[i].state.built;
    if (built && builds_[i].state.built == built) devices.push_back(devices_[i]);
  }
  return {built, devices};
}

std::vector<std::byte> _cl_program::binary(cl_device_id device) const {
  ScopedLock lock(mutex_);
  const DeviceBuild& build = builds_[index_of(device)];
  const BuildState& state = build.state;
  if (state.object) return write_binary(*context_, state.binary_type, *state.object, state.options);
  const BuiltProgram* built = state.built ? state.built.get() : build.loaded_executable.get();
  if (built == nullptr) return {};
  return write_binary(*context_, CL_PROGRAM_BINARY_TYPE_EXECUTABLE, built->image(), state.options);
}
