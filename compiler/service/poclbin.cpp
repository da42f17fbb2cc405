// SPDX-License-Identifier: Apache-2.0
//   header   magic[8], u64 device hash, u32 version, u32 kernels, u64 flags, u32 root entries, u8 build hash[41]
//   per root entry   u64 size, then files
//   per kernel       u64 size of all, u64 size of its files, u32 size of its argument infos, name, u32 arguments, u32
//   locals,
//                    u64 required size[3], u64 local sizes[], attributes, u64 which argument infos are valid,
//                    argument infos, files
// Strings and file contents are u32 length and bytes; a file is its path and its content. Integers are little endian.
#include "compiler/service/poclbin.h"

#include <fmt/format.h>

#include "compiler/bytes.h"
#include "compiler/service/pocl_version.h"

namespace mirrorcl::compiler::pocl {
namespace {

constexpr std::size_t kBuildHashSize = 41;  // a SHA-1 in text, with its end

tl::unexpected<Error> malformed(std::string_view what) {
  return fail(ErrorCode::kInvalidArgument, fmt::format("malformed PoCL binary: {}", what));
}

std::span<const std::byte> read_sized(ByteReader& in) {
  return in.raw(in.number<std::uint32_t>());
}
std::string read_text(ByteReader& in) {
  return ByteReader::to_string(read_sized(in));
}

BinaryArgument read_argument(ByteReader& in) {
  BinaryArgument argument;
  argument.access_qualifier = in.number<std::uint32_t>();
  argument.address_qualifier = in.number<std::uint32_t>();
  argument.type_qualifier = in.number<std::uint64_t>();
  argument.type = in.number<std::uint32_t>();
  argument.size = in.number<std::uint32_t>();
  argument.name = read_text(in);
  argument.type_name = read_text(in);
  return argument;
}

Result<BinaryKernel> read_kernel(ByteReader& in) {
  // The sizes at the start of the record only allow skipping it; here they bound what is read.
  auto record_size = in.number<std::uint64_t>();
  constexpr std::size_t kSizeField = sizeof record_size;
  if (!in.ok() || record_size < kSizeField) return malformed("size of a kernel");
  std::span<const std::byte> record = in.raw(record_size - kSizeField);
  if (!in.ok()) return malformed("a kernel goes beyond the end");

  ByteReader fields(record);
  BinaryKernel kernel;
  auto files_size = fields.number<std::uint64_t>();
  auto infos_size = fields.number<std::uint32_t>();
  kernel.name = read_text(fields);
  auto argument_count = fields.number<std::uint32_t>();
  auto local_count = fields.number<std::uint32_t>();
  for (std::uint64_t& size : kernel.required_local_size) size = fields.number<std::uint64_t>();
  if (!fields.ok() || local_count > fields.left() / sizeof(std::uint64_t)) return malformed("locals of a kernel");
  for (std::uint32_t i = 0; i < local_count; ++i) kernel.local_sizes.push_back(fields.number<std::uint64_t>());
  kernel.attributes = read_text(fields);
  fields.number<std::uint64_t>();

  ByteReader infos(fields.raw(infos_size));
  for (std::uint32_t i = 0; i < argument_count && infos.ok(); ++i) kernel.arguments.push_back(read_argument(infos));
  if (!fields.ok() || !infos.at_end()) return malformed(fmt::format("arguments of kernel {}", kernel.name));

  if (fields.left() != files_size) return malformed(fmt::format("files of kernel {}", kernel.name));
  while (fields.left() > 0) {
    BinaryFile file;
    file.path = read_text(fields);
    file.content = read_sized(fields);
    if (!fields.ok() || file.path.empty()) return malformed(fmt::format("a file of kernel {}", kernel.name));
    kernel.files.push_back(std::move(file));
  }
  return kernel;
}

}  // namespace

std::span<const std::byte> BinaryKernel::generic_object() const {
  std::string path = fmt::format("/{0}/{1}/{0}.so", name, kGenericVariant);
  for (const BinaryFile& file : files) {
    if (file.path == path) return file.content;
  }
  return {};
}

Result<Binary> parse_binary(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  Binary binary;
  if (ByteReader::to_string(in.raw(kBinaryMagic.size())) != kBinaryMagic) return malformed("no magic");
  binary.device = in.number<std::uint64_t>();
  auto version = in.number<std::uint32_t>();
  if (version != kBinaryVersion) return malformed(fmt::format("version {} instead of {}", version, kBinaryVersion));
  auto kernel_count = in.number<std::uint32_t>();
  binary.flags = in.number<std::uint64_t>();
  auto root_entries = in.number<std::uint32_t>();
  in.raw(kBuildHashSize);
  if (!in.ok()) return malformed("header");
  for (std::uint32_t i = 0; i < root_entries; ++i) {
    in.raw(in.number<std::uint64_t>());
    if (!in.ok()) return malformed("program files");
  }
  for (std::uint32_t i = 0; i < kernel_count; ++i) {
    auto kernel = read_kernel(in);
    if (!kernel) return tl::unexpected(kernel.error());
    binary.kernels.push_back(std::move(*kernel));
  }
  if (!in.at_end()) return malformed("bytes after the last kernel");
  return binary;
}

}  // namespace mirrorcl::compiler::pocl
