// SPDX-License-Identifier: Apache-2.0
// Tests of what a process without privileges gets, also where they are run as root.
#pragma once

#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "base/unique_fd.h"

namespace mirrorcl {

// The calling process is an ordinary user's from now on, as if that user had started it. False: it may not.
inline bool become_ordinary_user() {
  if (geteuid() != 0) return true;
  constexpr unsigned kNobody = 65534;
  return setgroups(0, nullptr) == 0 && setresgid(kNobody, kNobody, kNobody) == 0 &&
         setresuid(kNobody, kNobody, kNobody) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0;
}

// What `body()`, a std::string, is in a forked child that is an ordinary user's.
template <typename Body>
std::string as_ordinary_user(Body body) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return "pipe2";
  UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  const pid_t child = fork();
  if (child == 0) {
    const std::string text = become_ordinary_user() ? body() : "cannot become an ordinary user";
    _exit(write(in.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  in.reset();
  std::string text;
  char part[4096];
  for (ssize_t got; (got = read(out.get(), part, sizeof part)) > 0;) text.append(part, static_cast<std::size_t>(got));
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? text : "status " + std::to_string(status) + ": " + text;
}

}  // namespace mirrorcl
