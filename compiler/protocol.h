// SPDX-License-Identifier: Apache-2.0
// What client and service say to each other over their socket: one Request, one Reply, until either end closes. A frame
// is a u32 magic, a u64 size and the payload; both ends treat a malformed frame as the loss of the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "compiler/build_request.h"
#include "compiler/bytes.h"
#include "compiler/program_image.h"

namespace mirrorcl::compiler {

struct Request {
  BuildRequest build;
  std::string directory;  // the application's working directory: what relative -I paths start from
};

enum class ReplyStatus : std::uint32_t {
  kBuilt,
  kBuildFailed,  // the program is wrong
  kInvalidOptions,
  kNotSupported,  // PoCL missing or of another version
  kInternal,      // the compiler itself failed; the service ends after this reply
};

struct Reply {
  ReplyStatus status = ReplyStatus::kInternal;
  std::string message;  // the reason, unless kBuilt
  std::string log;
  bool cacheable = false;  // the image depends on nothing but the request (no file was included)
  ProgramImage image;      // of kBuilt
};

// Request and image alone, as the disk cache keeps them too.
void write_request(ByteWriter& out, const BuildRequest& request);
BuildRequest read_request(ByteReader& in);
void write_image(ByteWriter& out, const ProgramImage& image);
ProgramImage read_image(ByteReader& in);

std::vector<std::byte> encode(const Request& request);
std::vector<std::byte> encode(const Reply& reply);
// kInvalidArgument if malformed.
Result<Request> decode_request(std::span<const std::byte> payload);
Result<Reply> decode_reply(std::span<const std::byte> payload);

// Blocking; never raise SIGPIPE. Errors: kSystem; "closed" as message if the other end has closed between frames.
Result<void> send_frame(int socket, std::span<const std::byte> payload);
Result<std::vector<std::byte>> receive_frame(int socket);

}  // namespace mirrorcl::compiler
