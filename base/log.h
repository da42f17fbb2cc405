// SPDX-License-Identifier: Apache-2.0
// The log: lines on standard error, chosen by MIRRORCL_LOG=off|error|warning|info|debug|trace (default: warning).
// A line is formatted into a buffer on the stack and written with one raw write(2): no allocation, no lock and no
// stdio, so that the pinned threads of mirror/ may log too. Longer lines are cut at 1,000 bytes.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <string_view>
#include <utility>

namespace mirrorcl {

enum class LogLevel : int { kOff, kError, kWarning, kInfo, kDebug, kTrace };

// Read once from the environment; safe from any thread after init_log().
void init_log();
LogLevel log_level() noexcept;
void write_log_line(LogLevel level, const char* text, std::size_t size) noexcept;

template <typename... Args>
void log_at(LogLevel level, fmt::format_string<Args...> format, Args&&... args) noexcept {
  if (level > log_level()) return;
  char line[1000];
  auto end = fmt::format_to_n(line, sizeof line, format, std::forward<Args>(args)...);
  write_log_line(level, line, end.size < sizeof line ? end.size : sizeof line);
}

template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_at(LogLevel::kError, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_at(LogLevel::kWarning, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_at(LogLevel::kInfo, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_at(LogLevel::kDebug, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_trace(fmt::format_string<Args...> format, Args&&... args) noexcept {
  log_at(LogLevel::kTrace, format, std::forward<Args>(args)...);
}

}  // namespace mirrorcl
