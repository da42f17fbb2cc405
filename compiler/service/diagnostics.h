// SPDX-License-Identifier: Apache-2.0
// What LLVM and PoCL write to standard output and error must not reach the application's terminal: it is kept here and
// goes to the build log when a build fails for a reason of the compiler's own. Crashes and LLVM's fatal errors are told
// to the client.
#pragma once

#include <functional>
#include <string>

namespace mirrorcl::compiler {

// Points descriptors 1 and 2 at a file in memory.
void capture_output();
// What was written since the last take.
std::string captured_output();
std::string take_captured_output();

// `tell` is called once with the reason ("killed by SIGSEGV", or LLVM's message) before the process ends.
void report_failures(std::function<void(const std::string&)> tell);
// LLVM puts handlers of its own in place of ours at its first output file; they pass a real fault on, but swallow the
// signal of a kill(). To be called before each build.
void install_signal_handlers();

}  // namespace mirrorcl::compiler
