// SPDX-License-Identifier: Apache-2.0
// System calls that must succeed, because nothing can be put right without them.
#pragma once

#include <errno.h>
#include <time.h>

#include "base/raw_syscall.h"

namespace mirrorcl::mirror {

// Whether a system call that answered `error` (0 or -errno) may succeed when it is merely made again.
constexpr bool passes(long error) noexcept {
  return error == -EAGAIN || error == -EINTR || error == -ENOMEM || error == -EBUSY;
}

inline void pause_briefly() noexcept {
  timespec pause{0, 20'000};
  raw_syscall(SYS_nanosleep, &pause, nullptr);
}

// Makes `call` again while its error is one that passes, for about a second at most. Its last result, 0 or -errno.
template <typename Call>
long insist(Call call) noexcept {
  constexpr int kAttempts = 10'000;
  long result = call();
  for (int i = 0; i < kAttempts && passes(result); ++i) {
    pause_briefly();
    result = call();
  }
  return result;
}

}  // namespace mirrorcl::mirror
