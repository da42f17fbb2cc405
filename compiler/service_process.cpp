// SPDX-License-Identifier: Apache-2.0
#include "compiler/service_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "base/log.h"
#include "base/paths.h"
#include "base/spawn.h"

namespace mirrorcl::compiler {
namespace {

namespace fs = std::filesystem;

constexpr const char* kScratchPrefix = "mirrorcl-compiler-";

void remove_folder(const std::string& path) {
  std::error_code ignored;
  if (!path.empty()) fs::remove_all(path, ignored);
}

// A service holds a lock on its folder for as long as it lives, and removes the folder at its end. One that was killed
// together with its application could not: an unlocked folder is such a leftover.
void remove_leftovers(const fs::path& parent) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    if (!entry.path().filename().string().starts_with(kScratchPrefix)) continue;
    UniqueFd folder(open(entry.path().c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    struct stat info {};
    if (!folder || fstat(folder.get(), &info) != 0 || info.st_uid != geteuid()) continue;
    if (flock(folder.get(), LOCK_EX | LOCK_NB) == 0) remove_folder(entry.path().string());
  }
}

// A new folder, and a descriptor that holds its lock.
Result<std::pair<std::string, UniqueFd>> make_scratch() {
  std::error_code error;
  fs::path parent = fs::temp_directory_path(error);
  if (error) parent = "/tmp";
  remove_leftovers(parent);
  for (int attempt = 0; attempt < 8; ++attempt) {
    std::string path = (parent / (std::string(kScratchPrefix) + "XXXXXX")).string();
    if (mkdtemp(path.data()) == nullptr) return fail_errno("mkdtemp " + path, errno);
    UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // Between the two calls another process may have taken it for a leftover.
    if (folder && flock(folder.get(), LOCK_EX | LOCK_NB) == 0 && access(path.c_str(), F_OK) == 0) {
      return std::pair(path, std::move(folder));
    }
  }
  return fail(ErrorCode::kSystem, fmt::format("no temporary folder in {}", parent.string()));
}

tl::unexpected<Error> lost(std::string reason) {
  return fail(ErrorCode::kCompilerLost, std::move(reason));
}

}  // namespace

Result<std::unique_ptr<ServiceProcess>> ServiceProcess::start() {
  auto scratch = make_scratch();
  if (!scratch) return lost("cannot start the compiler service: " + scratch.error().message);
  std::unique_ptr<ServiceProcess> service(new ServiceProcess());
  service->scratch_ = scratch->first;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return lost(fail_errno("cannot start the compiler service: socketpair", errno).value().message);
  }
  service->socket_.reset(ends[0]);
  UniqueFd far_end(ends[1]);
  std::string path = private_file("mirrorcl-compiler");
  // Output to nowhere: the service keeps what LLVM and PoCL print to itself.
  std::array<int, 5> fds{-1, -1, -1, far_end.get(), scratch->second.get()};
  auto process = spawn_detached(path, {path, service->scratch_}, fds);
  if (!process) return lost("cannot start the compiler service: " + process.error().message);
  service->pidfd_ = std::move(process->pidfd);
  service->pid_ = process->pid;
  log_info("compiler service started, process {}", process->pid);
  return service;
}

ServiceProcess::~ServiceProcess() {
  if (!socket_) return;  // forgotten
  socket_.reset();
  // It removes its folder itself; this is for one that was killed.
  remove_folder(scratch_);
}

Result<Reply> ServiceProcess::exchange(const Request& request) {
  // A failed send is told by the receive that follows: the service's last words may lie there still.
  auto sent = send_frame(socket_.get(), encode(request));
  auto payload = receive_frame(socket_.get());
  if (!payload) {
    std::string how = describe_exit(pidfd_.get(), 200);
    log_error("compiler service (process {}) {} ({})", pid_, how, (sent ? payload.error() : sent.error()).message);
    return lost(fmt::format("the compiler service was lost: it {}", how));
  }
  auto reply = decode_reply(*payload);
  if (!reply) return lost("the compiler service was lost: " + reply.error().message);
  return reply;
}

void ServiceProcess::forget_in_child() noexcept {
  socket_.reset();
  pidfd_.reset();
}

}  // namespace mirrorcl::compiler
