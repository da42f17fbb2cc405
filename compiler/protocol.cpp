// SPDX-License-Identifier: Apache-2.0
#include "compiler/protocol.h"

#include <sys/socket.h>

#include <cerrno>

#include "compiler/bytes.h"

namespace mirrorcl::compiler {
namespace {

constexpr std::uint32_t kMagic = 0x4c434d31;  // "1MCL"
constexpr std::uint64_t kLargestFrame = std::uint64_t{1} << 30;

struct FrameHeader {
  std::uint32_t magic;
  std::uint32_t reserved;
  std::uint64_t size;
};

void write_kernel(ByteWriter& out, const KernelImage& kernel) {
  out.text(kernel.name);
  out.text(kernel.symbol);
  out.number<std::uint64_t>(kernel.arguments.size());
  for (const KernelArgument& argument : kernel.arguments) {
    out.number(argument.kind);
    out.number(argument.size);
    out.number(argument.address_qualifier);
    out.number(argument.access_qualifier);
    out.number(argument.type_qualifier);
    out.text(argument.type_name);
    out.text(argument.name);
  }
  out.number<std::uint64_t>(kernel.automatic_locals.size());
  for (std::uint64_t bytes : kernel.automatic_locals) out.number(bytes);
  for (std::uint64_t size : kernel.required_local_size) out.number(size);
  for (std::uint64_t size : kernel.local_size_hint) out.number(size);
  out.text(kernel.attributes);
  out.number<std::uint8_t>(kernel.uses_printf ? 1 : 0);
  out.number<std::uint8_t>(kernel.uniform_work_groups ? 1 : 0);
  out.number(kernel.private_bytes);
  out.blob(kernel.elf);
}

KernelImage read_kernel(ByteReader& in) {
  KernelImage kernel;
  kernel.name = in.text();
  kernel.symbol = in.text();
  kernel.arguments.resize(in.count(36));
  for (KernelArgument& argument : kernel.arguments) {
    auto kind = in.number<std::uint32_t>();
    if (kind > static_cast<std::uint32_t>(KernelArgument::Kind::kQueue)) in.fail();
    argument.kind = static_cast<KernelArgument::Kind>(kind);
    argument.size = in.number<std::uint32_t>();
    argument.address_qualifier = in.number<std::uint32_t>();
    argument.access_qualifier = in.number<std::uint32_t>();
    argument.type_qualifier = in.number<std::uint32_t>();
    argument.type_name = in.text();
    argument.name = in.text();
  }
  kernel.automatic_locals.resize(in.count(8));
  for (std::uint64_t& bytes : kernel.automatic_locals) bytes = in.number<std::uint64_t>();
  for (std::uint64_t& size : kernel.required_local_size) size = in.number<std::uint64_t>();
  for (std::uint64_t& size : kernel.local_size_hint) size = in.number<std::uint64_t>();
  kernel.attributes = in.text();
  kernel.uses_printf = in.number<std::uint8_t>() != 0;
  kernel.uniform_work_groups = in.number<std::uint8_t>() != 0;
  kernel.private_bytes = in.number<std::uint64_t>();
  kernel.elf = in.blob();
  return kernel;
}

Result<void> send_all(int socket, const void* data, std::size_t size, int flags) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    ssize_t sent = send(socket, from, size, MSG_NOSIGNAL | flags);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return fail_errno("send", errno);
    from += sent;
    size -= static_cast<std::size_t>(sent);
  }
  return {};
}

Result<void> receive_all(int socket, void* data, std::size_t size, bool between_frames) {
  char* to = static_cast<char*>(data);
  std::size_t wanted = size;
  while (size > 0) {
    ssize_t got = recv(socket, to, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno("recv", errno);
    if (got == 0) {
      return fail(ErrorCode::kSystem, between_frames && size == wanted ? "closed" : "closed in the middle of a frame");
    }
    to += got;
    size -= static_cast<std::size_t>(got);
  }
  return {};
}

}  // namespace

void write_image(ByteWriter& out, const ProgramImage& image) {
  out.number<std::uint64_t>(image.kernels.size());
  for (const KernelImage& kernel : image.kernels) write_kernel(out, kernel);
  out.blob(image.bitcode);
  out.number<std::uint8_t>(image.flush_denormals ? 1 : 0);
  out.number(image.global_variables_size);
}

ProgramImage read_image(ByteReader& in) {
  ProgramImage image;
  image.kernels.resize(in.count(106));
  for (KernelImage& kernel : image.kernels) kernel = read_kernel(in);
  image.bitcode = in.blob();
  image.flush_denormals = in.number<std::uint8_t>() != 0;
  image.global_variables_size = in.number<std::uint64_t>();
  return image;
}

void write_request(ByteWriter& out, const BuildRequest& request) {
  out.number(request.kind);
  out.text(request.source);
  out.text(request.options);
  out.number<std::uint64_t>(request.headers.size());
  for (const Header& header : request.headers) {
    out.text(header.name);
    out.text(header.source);
  }
  out.number<std::uint64_t>(request.objects.size());
  for (const ObjectFile& object : request.objects) {
    out.blob(object.bitcode);
    out.number<std::uint8_t>(object.flush_denormals ? 1 : 0);
  }
}

BuildRequest read_request(ByteReader& in) {
  BuildRequest request;
  auto kind = in.number<std::uint32_t>();
  if (kind > static_cast<std::uint32_t>(BuildKind::kLink)) in.fail();
  request.kind = static_cast<BuildKind>(kind);
  request.source = in.text();
  request.options = in.text();
  request.headers.resize(in.count(16));
  for (Header& header : request.headers) {
    header.name = in.text();
    header.source = in.text();
  }
  request.objects.resize(in.count(9));
  for (ObjectFile& object : request.objects) {
    object.bitcode = in.blob();
    object.flush_denormals = in.number<std::uint8_t>() != 0;
  }
  return request;
}

std::vector<std::byte> encode(const Request& request) {
  ByteWriter out;
  write_request(out, request.build);
  out.text(request.directory);
  return out.take();
}

std::vector<std::byte> encode(const Reply& reply) {
  ByteWriter out;
  out.number(reply.status);
  out.text(reply.message);
  out.text(reply.log);
  out.number<std::uint8_t>(reply.cacheable ? 1 : 0);
  write_image(out, reply.image);
  return out.take();
}

Result<Request> decode_request(std::span<const std::byte> payload) {
  ByteReader in(payload);
  Request request;
  request.build = read_request(in);
  request.directory = in.text();
  if (!in.at_end()) return fail(ErrorCode::kInvalidArgument, "malformed request");
  return request;
}

Result<Reply> decode_reply(std::span<const std::byte> payload) {
  ByteReader in(payload);
  Reply reply;
  auto status = in.number<std::uint32_t>();
  if (status > static_cast<std::uint32_t>(ReplyStatus::kInternal)) in.fail();
  reply.status = static_cast<ReplyStatus>(status);
  reply.message = in.text();
  reply.log = in.text();
  reply.cacheable = in.number<std::uint8_t>() != 0;
  reply.image = read_image(in);
  if (!in.at_end()) return fail(ErrorCode::kInvalidArgument, "malformed reply");
  return reply;
}

Result<void> send_frame(int socket, std::span<const std::byte> payload) {
  FrameHeader header{kMagic, 0, payload.size()};
  if (auto sent = send_all(socket, &header, sizeof header, MSG_MORE); !sent) return sent;
  return send_all(socket, payload.data(), payload.size(), 0);
}

Result<std::vector<std::byte>> receive_frame(int socket) {
  FrameHeader header{};
  if (auto got = receive_all(socket, &header, sizeof header, true); !got) return tl::unexpected(got.error());
  if (header.magic != kMagic || header.size > kLargestFrame) return fail(ErrorCode::kSystem, "malformed frame");
  std::vector<std::byte> payload(header.size);
  if (auto got = receive_all(socket, payload.data(), payload.size(), false); !got) return tl::unexpected(got.error());
  return payload;
}

}  // namespace mirrorcl::compiler
