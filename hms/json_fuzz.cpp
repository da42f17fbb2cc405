// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: topology files that say anything. Built with MIRRORCL_BUILD_FUZZERS; run it on a folder with what
// 'hms show --json' wrote. json_file_test.cpp has the short version for CI.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "hms/json_file.h"
#include "hms/refresh.h"
#include "hms/render.h"
#include "hms/test_machines.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mirrorcl::hms;
  const auto machine = from_json(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!machine) {
    if (machine.error().message.empty()) std::abort();
    return 0;
  }
  const auto again = from_json(to_json(*machine));
  if (!again || !(*again == *machine)) std::abort();
  exercise(*machine);
  if (to_svg(*machine).empty() || to_dot(*machine).empty() || to_text(*machine).empty()) {
    if (!machine->targets().empty()) std::abort();
  }
  if (!(refresh(*machine, *again).topology == *machine)) std::abort();
  return 0;
}
