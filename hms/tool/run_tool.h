// SPDX-License-Identifier: Apache-2.0
// For tests: runs the `hms` tool (HMS_TOOL) and takes what it says.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace mirrorcl::hms {

struct ToolOutcome {
  int status;
  std::string output;  // both streams
};

// `arguments` and `environment` ("NAME=value NAME=value") as a shell reads them.
inline ToolOutcome run_tool(const std::string& arguments, const std::string& environment = "") {
  FILE* pipe = popen((environment + " '" HMS_TOOL "' " + arguments + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {-1, ""};
  std::string output;
  std::array<char, 4096> buffer;
  for (std::size_t size; (size = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    output.append(buffer.data(), size);
  }
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
}

}  // namespace mirrorcl::hms
