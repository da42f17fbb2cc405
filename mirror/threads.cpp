// SPDX-License-Identifier: Apache-2.0
#include "mirror/threads.h"

#include <fcntl.h>

#include <algorithm>
#include <cstddef>

#include "base/log.h"
#include "base/raw_syscall.h"

namespace mirrorcl::mirror {
namespace {

// getdents64's entry.
struct Entry {
  std::uint64_t inode;
  std::int64_t offset;
  std::uint16_t size;
  std::uint8_t type;
  char name[1];
};

// The number that `*text` begins with, behind it and what separates it from the next; false: there is none.
bool take_number(const char** text, std::uint64_t* number) noexcept {
  const char* at = *text;
  const bool hexadecimal = at[0] == '0' && at[1] == 'x';
  if (hexadecimal) at += 2;
  const char* first = at;
  std::uint64_t value = 0;
  for (;; ++at) {
    const bool decimal_digit = *at >= '0' && *at <= '9';
    const bool letter = hexadecimal && *at >= 'a' && *at <= 'f';
    if (!decimal_digit && !letter) break;
    value = value * (hexadecimal ? 16 : 10) + static_cast<std::uint64_t>(letter ? *at - 'a' + 10 : *at - '0');
  }
  if (at == first) return false;
  while (*at == ' ') ++at;
  *text = at;
  *number = value;
  return true;
}

}  // namespace

bool parse_blocked_call(const char* text, BlockedCall* call) noexcept {
  std::uint64_t number;
  if (!take_number(&text, &number)) return false;  // "running", or -1: in no system call
  call->number = static_cast<long>(number);
  return std::all_of(call->arguments.begin(), call->arguments.end(),
                     [&](std::uint64_t& argument) { return take_number(&text, &argument); });
}

void Threads::open() noexcept {
  const long fd = raw_syscall(SYS_openat, AT_FDCWD, "/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    log_warning(
        "/proc/self/task cannot be opened: who waits for a lock in memory that is on a device may wait for ever "
        "(error {})",
        -fd);
    return;
  }
  directory_.reset(static_cast<int>(fd));
}

std::span<std::uint32_t> Threads::list(std::span<std::uint32_t> ids) const noexcept {
  std::size_t count = 0;
  for_each([&](std::uint32_t id) {
    if (count < ids.size()) ids[count++] = id;
  });
  const auto listed = ids.first(count);
  if (!std::is_sorted(listed.begin(), listed.end())) std::sort(listed.begin(), listed.end());
  return listed;
}

bool Threads::rewind() const noexcept {
  return directory_ && raw_syscall(SYS_lseek, directory_.get(), 0, 0 /* SEEK_SET */) == 0;
}

long Threads::read_entries(char* entries) const noexcept {
  return raw_syscall(SYS_getdents64, directory_.get(), entries, kEntriesSize);
}

long Threads::parse_entry(const char* entry, std::uint32_t* id) noexcept {
  std::uint16_t size;
  __builtin_memcpy(&size, entry + offsetof(Entry, size), sizeof size);
  const char* name = entry + offsetof(Entry, name);
  std::uint64_t number = 0;
  *id = take_number(&name, &number) ? static_cast<std::uint32_t>(number) : 0;
  return size;
}

bool Threads::blocked_call(std::uint32_t id, BlockedCall* call) const noexcept {
  char path[24];
  char digits[12];
  std::size_t count = 0;
  for (; id != 0; id /= 10) digits[count++] = static_cast<char>('0' + id % 10);
  std::size_t size = 0;
  while (count != 0) path[size++] = digits[--count];
  __builtin_memcpy(path + size, "/syscall", sizeof "/syscall");
  const long fd = raw_syscall(SYS_openat, directory_.get(), path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;  // it has ended
  char text[256];
  const long length = raw_syscall(SYS_read, fd, text, sizeof text - 1);
  raw_syscall(SYS_close, fd);
  if (length <= 0) return false;
  text[length] = 0;
  return parse_blocked_call(text, call);
}

}  // namespace mirrorcl::mirror
