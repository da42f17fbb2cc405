// SPDX-License-Identifier: Apache-2.0
#include "mirror/collapser.h"

#include <errno.h>
#include <fcntl.h>

#include <algorithm>
#include <string_view>

#include "base/log.h"
#include "base/raw_syscall.h"
#include "mirror/clock.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {
namespace {

constexpr int kMadvCollapse = 25;  // 6.1

// Whether `word`, in brackets, is what the administrator has chosen.
bool is_chosen(const char* path, std::string_view word) noexcept {
  const long fd = raw_syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char text[128];
  const long size = raw_syscall(SYS_read, fd, text, sizeof text);
  raw_syscall(SYS_close, fd);
  return size > 0 && std::string_view(text, static_cast<std::size_t>(size)).find(word) != std::string_view::npos;
}

}  // namespace

void Collapser::note(std::uint64_t base) noexcept {
  if (waiting_.size() == kMostWaiting || std::ranges::find(waiting_, base) != waiting_.end()) return;
  waiting_.push_back(base);
}

std::uint64_t Collapser::next_ns() const noexcept {
  return waiting_.empty() ? kNever : rests_until_ns_;
}

bool Collapser::is_forbidden() noexcept {
  constexpr const char* kAll = "/sys/kernel/mm/transparent_hugepage/enabled";
  constexpr const char* kOfTwoMiB = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled";  // 6.8
  return is_chosen(kOfTwoMiB, "[never]") ||
         (is_chosen(kAll, "[never]") && !is_chosen(kOfTwoMiB, "[always]") && !is_chosen(kOfTwoMiB, "[madvise]"));
}

std::uint64_t Collapser::take() noexcept {
  const std::uint64_t base = waiting_.front();
  waiting_.erase(waiting_.begin());
  return base;
}

void Collapser::collapse(std::uint64_t base) noexcept {
  const std::uint64_t begin = now_ns();
  const long error = is_forbidden() ? -EPERM : raw_syscall(SYS_madvise, base, kBlockSize, kMadvCollapse);
  const std::uint64_t end = now_ns();
  rests_until_ns_ = end + kRests * (end - begin);
  if (error != 0) log_debug("the block at {:#x} stays in small pages: error {}", base, -error);
}

}  // namespace mirrorcl::mirror
