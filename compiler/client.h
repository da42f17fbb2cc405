// SPDX-License-Identifier: Apache-2.0
// The application's side of the compiler: asks the service process (started at the first build) to build a program,
// keeps the disk cache. No LLVM here.
//
// Thread safety: all members; builds of several threads are served one after the other by one service.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "compiler/build_request.h"
#include "compiler/program_image.h"

namespace mirrorcl::compiler {

struct BuildOutcome {
  Result<ProgramImage> image;  // kBuildFailed: the program is wrong; kInvalidArgument: an option is; kCompilerLost,
                               // kNotSupported (PoCL missing or of another version): the message is the reason
  std::string log;             // CL_PROGRAM_BUILD_LOG: the front end's messages, or the reason
};

class Client {
 public:
  static std::unique_ptr<Client> create();  // cheap: starts nothing
  virtual ~Client() = default;
  virtual BuildOutcome build(const BuildRequest& request) = 0;
  // The check for CL_INVALID_BUILD_OPTIONS, CL_INVALID_COMPILER_OPTIONS and CL_INVALID_LINKER_OPTIONS without building:
  // void, or the reason.
  virtual Result<void> check_options(BuildKind kind, const std::string& options) const = 0;
  // Whether the service and its PoCL can be had, without starting anything: void, or one sentence (for clinfo).
  static Result<void> probe();
};

}  // namespace mirrorcl::compiler
