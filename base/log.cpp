// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <sys/uio.h>

#include <array>
#include <cstring>

#include "base/options.h"
#include "base/raw_syscall.h"
#include "base/result.h"

namespace mirrorcl {
namespace {

// In the driver's own data segment, which never migrates, so pinned threads may read it.
LogLevel g_level = LogLevel::kWarning;

constexpr std::array<std::string_view, 6> kLevelNames = {"off", "error", "warning", "info", "debug", "trace"};

}  // namespace

void init_log() {
  std::string_view wanted = options().log;
  for (std::size_t i = 0; i < kLevelNames.size(); ++i) {
    if (wanted == kLevelNames[i]) {
      g_level = static_cast<LogLevel>(i);
      return;
    }
  }
  log_warning("MIRRORCL_LOG={} is not one of off, error, warning, info, debug, trace; using warning", wanted);
}

LogLevel log_level() noexcept {
  return g_level;
}

void write_log_line(LogLevel level, const char* text, std::size_t size) noexcept {
  constexpr std::array<std::string_view, 6> kPrefixes = {
      "", "mirrorcl: error: ", "mirrorcl: warning: ", "mirrorcl: info: ", "mirrorcl: debug: ", "mirrorcl: trace: "};
  std::string_view prefix = kPrefixes[static_cast<std::size_t>(level)];
  char newline = '\n';
  iovec parts[3] = {{const_cast<char*>(prefix.data()), prefix.size()}, {const_cast<char*>(text), size}, {&newline, 1}};
  (void)raw_syscall(SYS_writev, 2, parts, 3);
}

tl::unexpected<Error> fail_errno(std::string what, int error_number) {
  char text[128];
  const char* message = strerror_r(error_number, text, sizeof text);
  return fail(ErrorCode::kSystem, std::move(what) + ": " + message);
}

}  // namespace mirrorcl
