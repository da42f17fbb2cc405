// SPDX-License-Identifier: Apache-2.0
#include "compiler/protocol.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "base/unique_fd.h"

namespace mirrorcl::compiler {
namespace {

struct SocketPair {
  UniqueFd near, far;
  SocketPair() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    near.reset(ends[0]);
    far.reset(ends[1]);
  }
};

Request sample_request() {
  BuildRequest build{"source", "options", BuildKind::kLink, {{"name", "header"}}, {{std::vector<std::byte>(9), true}}};
  return {build, "directory"};
}

Reply sample_reply() {
  Reply reply;
  reply.status = ReplyStatus::kBuilt;
  reply.log = "log";
  reply.cacheable = true;
  KernelImage kernel;
  kernel.name = "kernel";
  kernel.arguments.push_back({KernelArgument::Kind::kLocal, 8, 1, 2, 3, "int*", "p"});
  kernel.automatic_locals = {16};
  kernel.elf.resize(100);
  reply.image.kernels = {kernel, kernel};
  return reply;
}

TEST(protocol, carries_requests_and_replies) {
  SocketPair sockets;
  std::string source(1'000'000, 'x');
  std::thread sender([&] { ASSERT_TRUE(send_frame(sockets.near.get(), encode(Request{{source, "-w"}, "/tmp"}))); });
  auto payload = receive_frame(sockets.far.get());
  sender.join();
  ASSERT_TRUE(payload.has_value());
  auto request = decode_request(*payload);
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->build.source, source);
  EXPECT_EQ(request->directory, "/tmp");
  auto reply = decode_reply(encode(sample_reply()));
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->image.kernels.size(), 2U);
  EXPECT_EQ(reply->image.kernels[1].arguments.at(0).name, "p");
}

TEST(protocol, refuses_messages_cut_at_any_length) {
  auto whole = encode(sample_reply());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(decode_reply(std::span(whole).first(length)).has_value()) << length;
  }
  for (std::size_t at = 0; at + 8 <= whole.size();
       ++at) {  // counts and sizes at their largest: no huge allocation, no crash
    auto damaged = whole;
    std::memset(damaged.data() + at, 0xFF, 8);
    (void)decode_reply(damaged);
  }
  auto request = encode(sample_request());
  for (std::size_t length = 0; length < request.size(); ++length) {
    EXPECT_FALSE(decode_request(std::span(request).first(length)).has_value()) << length;
  }
}

TEST(protocol, tells_a_closed_end_from_a_broken_frame) {
  SocketPair closed;
  closed.near.reset();
  EXPECT_EQ(receive_frame(closed.far.get()).error().message, "closed");
  EXPECT_FALSE(send_frame(closed.far.get(), encode(Request{})).has_value());  // and no SIGPIPE

  SocketPair garbage;
  ASSERT_EQ(write(garbage.near.get(), "0123456789abcdef", 16), 16);
  EXPECT_EQ(receive_frame(garbage.far.get()).error().message, "malformed frame");

  SocketPair cut;
  ASSERT_EQ(write(cut.near.get(), "1MCL", 4), 4);
  cut.near.reset();
  EXPECT_EQ(receive_frame(cut.far.get()).error().message, "closed in the middle of a frame");
}

}  // namespace
}  // namespace mirrorcl::compiler
