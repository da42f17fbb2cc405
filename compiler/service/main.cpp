// SPDX-License-Identifier: Apache-2.0
// mirrorcl-compiler: the compiler service. Started by compiler/client.cpp with its socket as descriptor 3 and a scratch
// folder as argument; serves one request after the other and ends when the socket does.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <thread>

#include "base/options.h"
#include "compiler/service/build.h"
#include "compiler/service/diagnostics.h"

namespace mirrorcl::compiler {
namespace {

constexpr int kSocket = 3;

std::string scratch_folder;

void remove_scratch() {
  std::error_code ignored;
  std::filesystem::remove_all(scratch_folder, ignored);
}

// The end of the application ends the service at once, whatever it is compiling.
void watch_client() {
  // A crash is told by the main thread, whose socket it is to write to.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  pollfd watched{kSocket, POLLRDHUP, 0};
  while (poll(&watched, 1, -1) < 0 && errno == EINTR) {
  }
  remove_scratch();
  _exit(0);
}

// The last words, sent from wherever the compiler failed. Nobody else writes then: the main thread is the one that
// failed.
void send_failure(const std::string& reason) {
  Reply reply;
  reply.status = ReplyStatus::kInternal;
  reply.message = reason;
  reply.log = captured_output();
  (void)send_frame(kSocket, encode(reply));
  remove_scratch();
}

int serve() {
  std::unique_ptr<pocl::Pocl> pocl;
  std::unique_ptr<FrontEnd> front_end;
  for (;;) {
    install_signal_handlers();
    auto payload = receive_frame(kSocket);
    if (!payload) break;
    auto request = decode_request(*payload);
    if (!request) break;
    Reply reply;
    if (pocl == nullptr) {
      auto loaded = pocl::Pocl::load(options().pocl_library, scratch_folder);
      if (loaded) {
        pocl = std::move(*loaded);
        front_end =
            FrontEnd::create(pocl->target_cpu(), options().cache ? options().cache_dir : std::string(), scratch_folder);
      } else {
        reply.status = ReplyStatus::kNotSupported;
        reply.message = reply.log = loaded.error().message;
      }
    }
    if (pocl != nullptr) {
      // Relative paths of the program are the application's.
      const bool moved = chdir(request->directory.c_str()) == 0;  // else they are not found, and the log says which
      reply = build_program(*request, *front_end, *pocl);
      if (moved && chdir("/") != 0) break;  // never: "/" is always there
    }
    std::string said = take_captured_output();
    if (reply.status == ReplyStatus::kInternal) reply.log += said;
    if (!send_frame(kSocket, encode(reply)) || reply.status == ReplyStatus::kInternal) break;
  }
  remove_scratch();
  // No destructors: LLVM and PoCL have nothing to save.
  _exit(0);
}

}  // namespace
}  // namespace mirrorcl::compiler

int main(int argc, char** argv) {
  using namespace mirrorcl;
  using namespace mirrorcl::compiler;
  if (argc != 2 || fcntl(kSocket, F_GETFD) < 0) {
    std::fputs("mirrorcl-compiler is MirrorCL's compiler service; the driver starts it.\n", stderr);
    return 2;
  }
  // Its own session: Ctrl-C in the application's terminal is the application's affair.
  setsid();
  scratch_folder = argv[1];
  fcntl(kSocket, F_SETFD, FD_CLOEXEC);
  capture_output();
  report_failures(send_failure);
  std::thread(watch_client).detach();
  return serve();
}
