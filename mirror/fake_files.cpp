// SPDX-License-Identifier: Apache-2.0
#include "mirror/fake_files.h"

#include <errno.h>

#include <algorithm>

#include "base/raw_syscall.h"

namespace mirrorcl::mirror {

const FakeFiles::Mapping* FakeFiles::at(std::uint64_t address) const noexcept {
  for (const Mapping& mapping : mappings_) {
    if (address >= mapping.range.start && address < mapping.range.end()) return &mapping;
  }
  return nullptr;
}

std::size_t FakeFiles::size() const noexcept {
  return static_cast<std::size_t>(std::count_if(mappings_.begin(), mappings_.end(),
                                                [](const Mapping& mapping) { return mapping.range.size != 0; }));
}

int FakeFiles::map(Range range, int fd, std::uint64_t offset) noexcept {
  cut(range);
  for (Mapping& free : mappings_) {
    if (free.range.size != 0) continue;
    free = {range, static_cast<int>(raw_syscall(SYS_dup, fd)), offset};
    return 0;
  }
  return -ENOSPC;
}

void FakeFiles::cut(Range range) noexcept {
  for (Mapping& mapping : mappings_) {
    const Mapping old = mapping;
    if (old.range.size == 0 || old.range.end() <= range.start || old.range.start >= range.end()) continue;
    mapping.range.size = 0;
    const auto keep = [&](std::uint64_t start, std::uint64_t end) {
      for (Mapping& free : mappings_) {
        if (free.range.size != 0) continue;
        free = {{start, end - start},
                static_cast<int>(raw_syscall(SYS_dup, old.fd)),
                old.offset + (start - old.range.start)};
        return;
      }
    };
    if (old.range.start < range.start) keep(old.range.start, range.start);
    if (range.end() < old.range.end()) keep(range.end(), old.range.end());
    raw_syscall(SYS_close, old.fd);
  }
}

}  // namespace mirrorcl::mirror
