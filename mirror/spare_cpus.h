// SPDX-License-Identifier: Apache-2.0
// Whether the machine has a CPU to spare right now. Work that may turn out to be in vain is done on such a CPU only: a
// device whose compute units are threads of this machine would otherwise lose what the next kernel wins.
//
// Locking: open() before the threads start; then any thread. Raw system calls only.
#pragma once

#include "base/unique_fd.h"

namespace mirrorcl::mirror {

class SpareCpus {
 public:
  void open() noexcept;
  // Everything that wants to run, the caller included, has a CPU of its own. True where the kernel does not tell. A few
  // microseconds.
  bool any() const noexcept;
  // In the child of a fork.
  void close() noexcept { load_.reset(); }

 private:
  UniqueFd load_;  // /proc/loadavg
  long cpus_ = 0;
};

}  // namespace mirrorcl::mirror
