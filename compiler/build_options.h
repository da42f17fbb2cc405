// SPDX-License-Identifier: Apache-2.0
// The options of clBuildProgram, clCompileProgram and clLinkProgram, taken apart (OpenCL 3.0 API §5.8.6 and §5.8.7).
// One parser for both sides: the application checks with it, the service builds with it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace mirrorcl::compiler {

struct BuildOptions {
  unsigned standard = 120;                // OpenCL C version: 110, 120, 200 or 300; 120 without -cl-std
  std::vector<std::string> preprocessor;  // -D and -I in the order given, each as one word ("-DX=1", "-Ipath")
  std::vector<std::string> language;      // the -cl- options that change code, sorted, without repetition
  bool suppress_warnings = false;         // -w
  bool warnings_are_errors = false;       // -Werror
  bool debug = false;                     // -g
  bool flush_denormals = false;           // -cl-denorms-are-zero
  bool disable_optimisation = false;      // -cl-opt-disable
};

// "-cl-std=CL2.0 -D X=\"a b\"" -> words as a shell would cut them: blanks separate, single and double quotes join, a
// backslash keeps a following quote, blank or backslash. kInvalidArgument on an unfinished quote.
Result<std::vector<std::string>> split_words(const std::string& text);

// kInvalidArgument names the option that is unknown or malformed.
Result<BuildOptions> parse_build_options(const std::string& text);

struct LinkOptions {
  bool create_library = false;   // -create-library
  bool flush_denormals = false;  // -cl-denorms-are-zero
};

// kInvalidArgument likewise.
Result<LinkOptions> parse_link_options(const std::string& text);

}  // namespace mirrorcl::compiler
