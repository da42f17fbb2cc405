// SPDX-License-Identifier: Apache-2.0
#include "icd/core/program.h"

#include <algorithm>

#include "base/log.h"
#include "compiler/build_options.h"
#include "compiler/bytes.h"
#include "compiler/protocol.h"
#include "icd/core/context.h"
#include "icd/core/runtime.h"

using mirrorcl::Error;
using mirrorcl::ErrorCode;
using mirrorcl::Result;
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
  std::lock_guard lock(mutex_);
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

struct BinaryContents {
  cl_program_binary_type type = CL_PROGRAM_BINARY_TYPE_NONE;
  std::string options;
  compiler::ProgramImage image;
};

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

_cl_program::_cl_program(_cl_context& context) : Object(context.dispatch_data()), context_(&context) {}

_cl_program* _cl_program::from_source(_cl_context& context, std::string source) {
  auto* program = new _cl_program(context);
  program->source_ = std::move(source);
  program->has_source_ = true;
  return program;
}

ClResult<_cl_program*> _cl_program::from_binary(_cl_context& context, std::span<const std::byte> binary) {
  auto contents = read_binary(context, binary);
  if (!contents) {
    mirrorcl::log_warning("clCreateProgramWithBinary: {}", contents.error().message);
    return tl::unexpected<cl_int>(CL_INVALID_BINARY);
  }
  auto* program = new _cl_program(context);
  program->state_.options = std::move(contents->options);
  program->state_.binary_type = contents->type;
  if (contents->type == CL_PROGRAM_BINARY_TYPE_EXECUTABLE) {
    program->loaded_executable_ = std::make_shared<BuiltProgram>(std::move(contents->image));
  } else {
    program->loaded_object_ = std::make_shared<ProgramImage>(std::move(contents->image));
    program->state_.object = program->loaded_object_;
  }
  return program;
}

cl_int _cl_program::begin(BuildKind kind, const std::string& options) {
  const auto valid = compiler_client().check_options(kind, options);
  std::lock_guard lock(mutex_);
  if (attached_kernels_.load(std::memory_order_relaxed) != 0 || state_.status == CL_BUILD_IN_PROGRESS) {
    return CL_INVALID_OPERATION;
  }
  state_ = {};
  state_.options = options;
  if (!valid) {
    state_.status = CL_BUILD_ERROR;
    state_.log = valid.error().message + "\n";
    return CL_INVALID_VALUE;
  }
  state_.status = CL_BUILD_IN_PROGRESS;
  return CL_SUCCESS;
}

cl_int _cl_program::build() {
  const std::string options = build_state().options;
  if (loaded_object_) return link({loaded_object_}, "");
  if (loaded_executable_) {
    // Built already; building it again with other options changes nothing but the options shown.
    std::lock_guard lock(mutex_);
    state_ = {CL_BUILD_SUCCESS, options, "", CL_PROGRAM_BINARY_TYPE_EXECUTABLE, loaded_executable_, nullptr};
    return CL_SUCCESS;
  }
  return run({source_, options}, CL_PROGRAM_BINARY_TYPE_EXECUTABLE, CL_BUILD_PROGRAM_FAILURE);
}

cl_int _cl_program::compile(std::vector<Header> headers) {
  return run({source_, build_state().options, BuildKind::kCompile, std::move(headers)},
             CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT, CL_COMPILE_PROGRAM_FAILURE);
}

cl_int _cl_program::link(const std::vector<std::shared_ptr<const ProgramImage>>& objects, const std::string& options) {
  BuildRequest request{"", options, BuildKind::kLink};
  for (const auto& object : objects) request.objects.push_back({object->bitcode, object->flush_denormals});
  const auto parsed = mirrorcl::compiler::parse_link_options(options);
  const bool library = parsed && parsed->create_library;
  return run(request, library ? CL_PROGRAM_BINARY_TYPE_LIBRARY : CL_PROGRAM_BINARY_TYPE_EXECUTABLE,
             loaded_object_ ? CL_BUILD_PROGRAM_FAILURE : CL_LINK_PROGRAM_FAILURE);
}

// By the one thread that has begun the build. `type`: of what comes out; `failure`: the code for an error of the
// program.
cl_int _cl_program::run(const BuildRequest& request, cl_program_binary_type type, cl_int failure) {
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
  std::lock_guard lock(mutex_);
  next.options = std::move(state_.options);
  state_ = std::move(next);
  return result;
}

_cl_program::BuildState _cl_program::build_state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

std::vector<std::byte> _cl_program::binary() const {
  std::lock_guard lock(mutex_);
  if (state_.object) return write_binary(*context_, state_.binary_type, *state_.object, state_.options);
  const BuiltProgram* built = state_.built ? state_.built.get() : loaded_executable_.get();
  if (built == nullptr) return {};
  return write_binary(*context_, CL_PROGRAM_BINARY_TYPE_EXECUTABLE, built->image(), state_.options);
}
