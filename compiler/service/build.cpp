// SPDX-License-Identifier: Apache-2.0
#include "compiler/service/build.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "compiler/service/poclbin.h"

namespace mirrorcl::compiler {
namespace {

Reply refuse(ReplyStatus status, std::string message, std::string log) {
  Reply reply;
  reply.status = status;
  reply.message = std::move(message);
  reply.log = std::move(log);
  return reply;
}

// Joins the front end's kernels with PoCL's. Both describe the same functions, so that a difference is our own error.
Result<void> add_objects(std::vector<KernelImage>& kernels, const pocl::Binary& binary) {
  for (KernelImage& kernel : kernels) {
    auto found = std::find_if(binary.kernels.begin(), binary.kernels.end(),
                              [&](const pocl::BinaryKernel& other) { return other.name == kernel.symbol; });
    if (found == binary.kernels.end()) {
      return fail(ErrorCode::kSystem, fmt::format("PoCL returned no kernel {}", kernel.name));
    }
    if (found->arguments.size() != kernel.arguments.size()) {
      return fail(ErrorCode::kSystem, fmt::format("PoCL sees {} arguments in kernel {}, which has {}",
                                                  found->arguments.size(), kernel.name, kernel.arguments.size()));
    }
    std::span<const std::byte> object = found->generic_object();
    if (object.empty())
      return fail(ErrorCode::kSystem, fmt::format("PoCL returned no code for kernel {}", kernel.name));
    kernel.automatic_locals = found->local_sizes;
    kernel.elf.assign(object.begin(), object.end());
  }
  return {};
}

// The mangled name of a function without a definition, as a person wrote it: "_Z12_cl_whateverf" -> "whatever".
std::string readable(std::string_view symbol) {
  if (!symbol.starts_with("_Z")) return std::string(symbol);
  std::size_t digits_end = symbol.find_first_not_of("0123456789", 2);
  if (digits_end == std::string_view::npos || digits_end == 2 || digits_end > 6) return std::string(symbol);
  auto length = static_cast<std::size_t>(std::stoul(std::string(symbol.substr(2, digits_end - 2))));
  std::string_view name = symbol.substr(digits_end, length);
  if (name.starts_with("_cl_")) name.remove_prefix(4);
  return std::string(name);
}

// PoCL's "Cannot find symbol X in kernel library" as errors in the compiler's own words.
std::string undefined_functions(const std::string& pocl_log) {
  constexpr std::string_view kBefore = "Cannot find symbol ";
  std::string result;
  for (std::size_t at = pocl_log.find(kBefore); at != std::string::npos; at = pocl_log.find(kBefore, at + 1)) {
    std::size_t start = at + kBefore.size();
    std::string symbol = pocl_log.substr(start, pocl_log.find_first_of(" \n", start) - start);
    result +=
        fmt::format("error: function '{}' is declared and called, but never defined ({})\n", readable(symbol), symbol);
  }
  return result.empty() ? pocl_log : result;
}

// Kernels of a module, through PoCL, into an image.
Reply make_kernels(FrontEndOutput output, pocl::Pocl& pocl) {
  Reply reply;
  reply.image.global_variables_size = output.global_variables_size;
  if (!output.kernels.empty()) {
    auto compiled = pocl.compile(output.bitcode);
    if (!compiled) return refuse(ReplyStatus::kInternal, compiled.error().message, std::move(output.log));
    if (!compiled->ok) {
      return refuse(ReplyStatus::kBuildFailed, "the program does not link",
                    output.log + undefined_functions(compiled->log));
    }
    auto binary = pocl::parse_binary(compiled->binary);
    if (!binary) return refuse(ReplyStatus::kInternal, binary.error().message, std::move(output.log));
    if (auto added = add_objects(output.kernels, *binary); !added) {
      return refuse(ReplyStatus::kInternal, added.error().message, std::move(output.log));
    }
  }
  if (output.global_variables_size != 0) {
    // PoCL makes one object per kernel: docs/status.md, and the reason why the feature is not announced.
    output.log += "warning: program-scope variables are not shared between kernels: each kernel has its own\n";
  }
  reply.status = ReplyStatus::kBuilt;
  reply.log = std::move(output.log);
  reply.image.kernels = std::move(output.kernels);
  return reply;
}

Reply make_object(FrontEndOutput output) {
  Reply reply;
  reply.status = ReplyStatus::kBuilt;
  reply.log = std::move(output.log);
  reply.image.bitcode = std::move(output.bitcode);
  return reply;
}

Reply compile_source(const BuildRequest& request, FrontEnd& front_end, pocl::Pocl& pocl) {
  auto options = parse_build_options(request.options);
  if (!options) return refuse(ReplyStatus::kInvalidOptions, options.error().message, options.error().message + "\n");
  FrontEndOutput output = front_end.compile(request, *options);
  if (!output.ok) return refuse(ReplyStatus::kBuildFailed, "the program has errors", std::move(output.log));
  const bool cacheable = !output.used_files;
  Reply reply =
      request.kind == BuildKind::kCompile ? make_object(std::move(output)) : make_kernels(std::move(output), pocl);
  reply.cacheable = cacheable;
  reply.image.flush_denormals = options->flush_denormals;
  return reply;
}

Reply link_program(const BuildRequest& request, pocl::Pocl& pocl) {
  auto options = parse_link_options(request.options);
  if (!options) return refuse(ReplyStatus::kInvalidOptions, options.error().message, options.error().message + "\n");
  FrontEndOutput output = link_objects(request.objects, options->create_library);
  if (!output.ok) return refuse(ReplyStatus::kBuildFailed, "the program does not link", std::move(output.log));
  Reply reply = options->create_library ? make_object(std::move(output)) : make_kernels(std::move(output), pocl);
  reply.cacheable = true;
  // The mode is one for a whole kernel: objects may flush where all of them may, or where the link says so.
  reply.image.flush_denormals =
      options->flush_denormals ||
      std::ranges::all_of(request.objects, [](const ObjectFile& object) { return object.flush_denormals; });
  return reply;
}

}  // namespace

Reply build_program(const Request& request, FrontEnd& front_end, pocl::Pocl& pocl) {
  if (request.build.kind == BuildKind::kLink) return link_program(request.build, pocl);
  return compile_source(request.build, front_end, pocl);
}

}  // namespace mirrorcl::compiler
