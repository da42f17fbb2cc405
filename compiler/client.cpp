// SPDX-License-Identifier: Apache-2.0
#include "compiler/client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <new>
#include <system_error>

#include "base/log.h"
#include "base/mutex.h"
#include "base/options.h"
#include "base/paths.h"
#include "base/unique_fd.h"
#include "compiler/build_cache.h"
#include "compiler/build_options.h"
#include "compiler/pocl_library.h"
#include "compiler/service/pocl_version.h"
#include "compiler/service_process.h"

namespace mirrorcl::compiler {
namespace {

ErrorCode code_of(ReplyStatus status) {
  switch (status) {
    case ReplyStatus::kInvalidOptions:
      return ErrorCode::kInvalidArgument;
    case ReplyStatus::kNotSupported:
      return ErrorCode::kNotSupported;
    case ReplyStatus::kInternal:
      return ErrorCode::kCompilerLost;
    default:
      return ErrorCode::kBuildFailed;
  }
}

BuildOutcome refuse(Error error, std::string log) {
  if (log.empty()) log = error.message + "\n";
  return {tl::unexpected(std::move(error)), std::move(log)};
}

class ServiceClient final : public Client {
 public:
  ServiceClient() : cache_(options().cache ? options().cache_dir : std::string()) { register_for_fork(this); }
  ~ServiceClient() override { unregister_for_fork(this); }

  BuildOutcome build(const BuildRequest& request) override {
    if (auto valid = check_options(request.kind, request.options); !valid) return refuse(valid.error(), {});
    const std::string key = cache_.key_of(request);
    if (auto entry = cache_.load(key, request)) return {std::move(entry->image), std::move(entry->log)};

    auto reply = ask({request, current_directory()});
    if (!reply) return refuse(reply.error(), {});
    if (reply->status != ReplyStatus::kBuilt) {
      if (reply->status == ReplyStatus::kInternal) {
        log_error("compiler service: {}", reply->message);
        if (reply->log.find(reply->message) == std::string::npos) reply->log += reply->message + "\n";
      }
      return refuse(Error{code_of(reply->status), reply->message}, std::move(reply->log));
    }
    BuildCache::Entry entry{std::move(reply->image), std::move(reply->log)};
    if (reply->cacheable) cache_.store(key, request, entry);
    return {std::move(entry.image), std::move(entry.log)};
  }

  Result<void> check_options(BuildKind kind, const std::string& text) const override {
    if (kind == BuildKind::kLink) {
      if (auto parsed = parse_link_options(text); !parsed) return tl::unexpected(parsed.error());
    } else if (auto parsed = parse_build_options(text); !parsed) {
      return tl::unexpected(parsed.error());
    }
    return {};
  }

 private:
  // Builds of several threads wait here for each other.
  Result<Reply> ask(const Request& request) {
    ScopedLock lock(mutex_);
    if (service_ == nullptr) {
      auto started = ServiceProcess::start();
      if (!started) return tl::unexpected(started.error());
      service_ = std::move(*started);
    }
    auto reply = service_->exchange(request);
    // The next build starts a new one.
    if (!reply || reply->status == ReplyStatus::kInternal) service_.reset();
    return reply;
  }

  static std::string current_directory() {
    std::error_code ignored;
    return std::filesystem::current_path(ignored).string();
  }

  // The child of a fork shares the socket with its parent: it lets go of it, and starts a service of its own when it
  // builds. Its copy of mutex_ may be locked by a thread that it does not have; there is no other thread.
  void after_fork_in_child() MIRRORCL_NO_THREAD_ANALYSIS {
    new (&mutex_) Mutex;
    if (service_ != nullptr) service_->forget_in_child();
    service_.reset();
  }

  static constexpr std::size_t kMostClients = 64;  // one per platform; tests make more
  static inline std::array<std::atomic<ServiceClient*>, kMostClients> clients{};

  static void register_for_fork(ServiceClient* client) {
    static std::once_flag once;
    std::call_once(once, [] {
      pthread_atfork(nullptr, nullptr, [] {
        for (auto& slot : clients) {
          if (ServiceClient* registered = slot.load()) registered->after_fork_in_child();
        }
      });
    });
    for (auto& slot : clients) {
      ServiceClient* none = nullptr;
      if (slot.compare_exchange_strong(none, client)) return;
    }
    log_warning("more than {} compiler clients: this one must not be used after fork()", kMostClients);
  }
  static void unregister_for_fork(ServiceClient* client) {
    for (auto& slot : clients) {
      ServiceClient* expected = client;
      if (slot.compare_exchange_strong(expected, nullptr)) return;
    }
  }

  BuildCache cache_;
  Mutex mutex_;
  // Null until the first build, and after a loss.
  std::unique_ptr<ServiceProcess> service_ MIRRORCL_GUARDED_BY(mutex_);
};

// Whether the file holds `text`.
bool file_contains(const std::string& path, std::string_view text) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (!fd || fstat(fd.get(), &info) != 0 || info.st_size <= 0) return false;
  auto size = static_cast<std::size_t>(info.st_size);
  void* start = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (start == MAP_FAILED) return false;
  Mapping mapping(start, size);
  return memmem(start, size, text.data(), text.size()) != nullptr;
}

}  // namespace

std::string pocl_library_path() {
  if (!options().pocl_library.empty()) return options().pocl_library;
  for (const char* folder : {"/usr/lib/x86_64-linux-gnu/", "/usr/local/lib/", "/usr/lib64/", "/usr/lib/"}) {
    std::string path = folder + std::string(pocl::kLibrary);
    if (access(path.c_str(), R_OK) == 0) return path;
  }
  return pocl::kLibrary;
}

std::unique_ptr<Client> Client::create() {
  return std::make_unique<ServiceClient>();
}

Result<void> Client::probe() {
  std::string service = private_file("mirrorcl-compiler");
  if (access(service.c_str(), X_OK) != 0) {
    return fail(ErrorCode::kNotSupported, fmt::format("the compiler service {} is missing", service));
  }
  std::string library = pocl_library_path();
  if (access(library.c_str(), R_OK) != 0) {
    return fail(
        ErrorCode::kNotSupported,
        fmt::format("no PoCL: {} is missing (Debian: install libpocl2, or name the file in MIRRORCL_POCL)", library));
  }
  if (!file_contains(library, pocl::kVersion)) {
    return fail(ErrorCode::kNotSupported, fmt::format("{} is not {}", library, pocl::kVersion));
  }
  return {};
}

}  // namespace mirrorcl::compiler
