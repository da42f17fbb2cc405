// SPDX-License-Identifier: Apache-2.0
#include "compiler/service/diagnostics.h"

#include <fmt/format.h>
#include <llvm/Support/ErrorHandling.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace mirrorcl::compiler {
namespace {

int captured_fd = -1;
std::function<void(const std::string&)>* tell_client = nullptr;
std::atomic<bool> told{false};

constexpr std::size_t kMostCaptured = 64 * 1024;

void tell_once(const std::string& reason) {
  if (!told.exchange(true)) (*tell_client)(reason);
}

void on_llvm_error(void*, const char* reason, bool) {
  tell_once(fmt::format("LLVM gave up: {}", reason));
  _exit(70);
}

// The process is lost anyway: allocating here can at worst hang, which the alarm ends, and the client then learns the
// signal from the kernel.
void on_signal(int number) {
  alarm(2);
  tell_once(fmt::format("the compiler crashed (SIG{})", sigabbrev_np(number)));
  signal(number, SIG_DFL);
  raise(number);
}

}  // namespace

void capture_output() {
  captured_fd = memfd_create("mirrorcl-compiler output", MFD_CLOEXEC);
  if (captured_fd < 0) return;  // standard output and error stay what the client made them: /dev/null
  dup2(captured_fd, STDOUT_FILENO);
  dup2(captured_fd, STDERR_FILENO);
}

std::string captured_output() {
  if (captured_fd < 0) return {};
  std::fflush(nullptr);
  std::string text(kMostCaptured, '\0');
  ssize_t got = pread(captured_fd, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

std::string take_captured_output() {
  std::string text = captured_output();
  if (!text.empty() && ftruncate(captured_fd, 0) == 0) lseek(captured_fd, 0, SEEK_SET);
  return text;
}

void report_failures(std::function<void(const std::string&)> tell) {
  tell_client = new std::function<void(const std::string&)>(std::move(tell));
  llvm::install_fatal_error_handler(on_llvm_error);
  // Of its own: a crash may be the end of the main stack.
  static std::array<char, 256 * 1024> stack;
  stack_t alternate{};
  alternate.ss_sp = stack.data();
  alternate.ss_size = stack.size();
  sigaltstack(&alternate, nullptr);
  install_signal_handlers();
}

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = static_cast<int>(SA_ONSTACK | SA_RESETHAND | SA_NODEFER);
  for (int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) sigaction(number, &action, nullptr);
}

}  // namespace mirrorcl::compiler
