// SPDX-License-Identifier: Apache-2.0
#include "icd/core/printed_text.h"

#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"

namespace mirrorcl::icd {

void write_printed_text(device::PrintfBuffer& buffer) {
  const std::uint32_t used = buffer.used.load(std::memory_order_acquire);
  const std::uint32_t size = std::min(used, buffer.capacity);
  if (used > buffer.capacity) {
    log_warning("a kernel printed more than {} bytes; the rest is lost", buffer.capacity);
  }
  if (size == 0) return;
  // An application thread may hold stdout's lock while it waits for the queue whose lock we hold: then past stdio.
  if (::ftrylockfile(stdout) == 0) {
    ::fwrite(buffer.text(), 1, size, stdout);
    ::fflush(stdout);
    ::funlockfile(stdout);
    return;
  }
  for (std::uint32_t written = 0; written < size;) {
    const ssize_t count = ::write(STDOUT_FILENO, buffer.text() + written, size - written);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    written += static_cast<std::uint32_t>(count);
  }
}

}  // namespace mirrorcl::icd
