// SPDX-License-Identifier: Apache-2.0
// The compiler service as its client sees it: a process at the other end of a socket.
//
// Thread safety: one thread at a time, but for forget_in_child().
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "compiler/protocol.h"

namespace mirrorcl::compiler {

class ServiceProcess {
 public:
  // kCompilerLost if it cannot be started.
  static Result<std::unique_ptr<ServiceProcess>> start();
  // Closes the socket, which ends the service, and removes what it may have left.
  ~ServiceProcess();

  // kCompilerLost with the reason if the service dies meanwhile; the object is of no use then.
  Result<Reply> exchange(const Request& request);

  // In the child of a fork(): lets go of the parent's service without a word to it.
  void forget_in_child() noexcept;

 private:
  ServiceProcess() = default;
  UniqueFd socket_;
  UniqueFd pidfd_;
  std::string scratch_;  // the folder for the service's temporary files
  int pid_ = -1;
};

}  // namespace mirrorcl::compiler
