// SPDX-License-Identifier: Apache-2.0
// clang's command line for a program.
#pragma once

#include <string>
#include <vector>

#include "compiler/build_options.h"

namespace mirrorcl::compiler {

// What the precompiled prefix header depends on: language version, extensions, target.
std::vector<std::string> language_arguments(const BuildOptions& options, const std::string& target_cpu);

// What only the program itself depends on: -D, -I, warnings, debug information.
std::vector<std::string> program_arguments(const BuildOptions& options);

}  // namespace mirrorcl::compiler
