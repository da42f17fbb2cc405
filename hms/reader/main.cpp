// SPDX-License-Identifier: Apache-2.0
// mirrorcl-hms-reader SOURCE devices|no-devices: what hwloc makes of an XML file or a captured tree, for reader.h.
#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "hms/discovery.h"
#include "hms/json_file.h"
#include "hms/reader/reader.h"

namespace {

bool write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t size = ::write(STDOUT_FILENO, text.data(), text.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(size));
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace mirrorcl::hms;
  if (argc != 3) return 2;
  const auto topology = discover_here({.source = argv[1], .devices = std::string_view(argv[2]) == "devices"});
  const std::string answer = topology ? kReadTopology + to_json(*topology) : kReadError + topology.error().message;
  return write_all(answer) ? 0 : 1;
}
