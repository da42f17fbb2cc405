// SPDX-License-Identifier: Apache-2.0
#include "mirror/spare_cpus.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "base/raw_syscall.h"

namespace mirrorcl::mirror {

void SpareCpus::open() noexcept {
  cpus_ = ::sysconf(_SC_NPROCESSORS_ONLN);
  load_.reset(static_cast<int>(raw_syscall(SYS_openat, AT_FDCWD, "/proc/loadavg", O_RDONLY | O_CLOEXEC)));
}

// "0.20 0.18 0.12 1/80 11206": the number in front of the slash is that of all that is running or wants to.
bool SpareCpus::any() const noexcept {
  char text[64];
  const long size = raw_syscall(SYS_pread64, load_.get(), text, sizeof text, 0);
  if (size <= 0) return true;
  const char* const end = text + size;
  const char* digit = std::find(static_cast<const char*>(text), end, '/');
  if (digit == end) return true;
  long running = 0;
  for (long weight = 1; digit != text && digit[-1] >= '0' && digit[-1] <= '9'; --digit, weight *= 10) {
    running += (digit[-1] - '0') * weight;
  }
  return running <= cpus_;
}

}  // namespace mirrorcl::mirror
