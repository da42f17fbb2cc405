// SPDX-License-Identifier: Apache-2.0
#include "mirror/address_space.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <link.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <new>

#include "base/log.h"
#include "base/pagemap.h"
#include "base/raw_syscall.h"
#include "device/window.h"
#include "hms/placement.h"

namespace mirrorcl::mirror {
namespace {

struct ProcmapQuery {  // struct procmap_query, 6.11
  std::uint64_t size;
  std::uint64_t query_flags;
  std::uint64_t query_address;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t flags;
  std::uint64_t page_size;
  std::uint64_t offset;
  std::uint64_t inode;
  std::uint32_t device_major;
  std::uint32_t device_minor;
  std::uint32_t name_size;
  std::uint32_t build_id_size;
  std::uint64_t name_address;
  std::uint64_t build_id_address;
};
constexpr unsigned long kProcmapQuery = _IOWR('f', 17, ProcmapQuery);
constexpr std::uint64_t kQueryReadable = 1;
constexpr std::uint64_t kQueryWritable = 2;
constexpr std::uint64_t kQueryExecutable = 4;
constexpr std::uint64_t kQueryShared = 8;
constexpr std::uint64_t kQueryOrNext = 16;

constexpr std::uint64_t kHoldsSomething = kPagemapPresent | kPagemapSwapped;

bool parse_hex(std::string_view* text, std::uint64_t* value) {
  auto result = std::from_chars(text->data(), text->data() + text->size(), *value, 16);
  if (result.ec != std::errc{}) return false;
  text->remove_prefix(static_cast<std::size_t>(result.ptr - text->data()));
  return true;
}

bool skip(std::string_view* text, char expected) {
  if (text->empty() || text->front() != expected) return false;
  text->remove_prefix(1);
  return true;
}

// The name of the file in a line of /proc/PID/maps, with a zero behind it; leaves `name` alone if there is none, the
// file has lost it, or it is too long.
void copy_name(std::string_view line, std::span<char> name) noexcept {
  constexpr std::string_view kNewline = "\\012";  // the one character that is written in another way
  const std::size_t start = line.find('/');
  if (start == std::string_view::npos || line.ends_with(" (deleted)") || line.size() - start >= name.size()) return;
  std::size_t size = 0;
  for (std::size_t at = start; at < line.size(); ++at) {
    const bool newline = line.substr(at).starts_with(kNewline);
    name[size++] = newline ? '\n' : line[at];
    if (newline) at += kNewline.size() - 1;
  }
  name[size] = 0;
}

}  // namespace

bool MappingInfo::readable() const {
  return (protection & PROT_READ) != 0;
}
bool MappingInfo::writable() const {
  return (protection & PROT_WRITE) != 0;
}
bool MappingInfo::migratable() const {
  return anonymous && !shared && !excluded && readable() && writable();
}

bool MappingInfo::private_file() const {
  return !anonymous && !shared && !excluded && readable() && writable();
}

bool MappingInfo::shared_file() const {
  return shared && file != FileIdentity{} && !excluded && readable();
}

bool parse_maps_line(std::string_view line, MappingInfo* info) noexcept {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  if (!parse_hex(&line, &start) || !skip(&line, '-') || !parse_hex(&line, &end) || !skip(&line, ' ')) return false;
  if (line.size() < 5 || end <= start) return false;
  int protection =
      (line[0] == 'r' ? PROT_READ : 0) | (line[1] == 'w' ? PROT_WRITE : 0) | (line[2] == 'x' ? PROT_EXEC : 0);
  bool shared = line[3] == 's';
  line.remove_prefix(4);
  std::uint64_t offset = 0;
  std::uint64_t major = 0;
  std::uint64_t minor = 0;
  if (!skip(&line, ' ') || !parse_hex(&line, &offset) || !skip(&line, ' ') || !parse_hex(&line, &major) ||
      !skip(&line, ':') || !parse_hex(&line, &minor) || !skip(&line, ' ')) {
    return false;
  }
  std::uint64_t inode = 0;
  if (std::from_chars(line.data(), line.data() + line.size(), inode).ec != std::errc{}) return false;
  const FileIdentity file{static_cast<std::uint32_t>(major), static_cast<std::uint32_t>(minor), inode};
  *info = {{start, end - start}, protection, shared, file == FileIdentity{}, false, file, offset, kPageSize};
  return true;
}

Result<AddressSpace> AddressSpace::open() {
  AddressSpace space;
  struct File {
    const char* path;
    UniqueFd* fd;
  };
  for (File file : {File{"/proc/self/maps", &space.maps_}, File{"/proc/self/mem", &space.memory_},
                    File{"/proc/self/pagemap", &space.pagemap_}}) {
    file.fd->reset(::open(file.path, O_RDONLY | O_CLOEXEC));
    if (!*file.fd) return fail_errno(fmt::format("cannot open {}", file.path), errno);
  }
  ProcmapQuery query{};
  query.size = sizeof query;
  query.query_address = reinterpret_cast<std::uint64_t>(&parse_maps_line);
  space.has_query_ = ioctl(space.maps_.get(), kProcmapQuery, &query) == 0;
  return space;
}

std::optional<MappingInfo> AddressSpace::query(std::uint64_t address) const noexcept {
  auto info = find(address, Which::kContaining);
  if (info) clip_to_exclusions(address, &*info);
  return info;
}

std::optional<MappingInfo> AddressSpace::query_from(std::uint64_t address) const noexcept {
  return find(address, Which::kContainingOrNext);
}

bool AddressSpace::file_name(std::uint64_t address, std::span<char> name) const noexcept {
  if (!has_query_) {
    name[0] = 0;
    return find_in_file(address, Which::kContaining, name) && name[0] == '/';
  }
  ProcmapQuery query{};
  query.size = sizeof query;
  query.query_address = address;
  query.name_size = static_cast<std::uint32_t>(name.size());
  query.name_address = reinterpret_cast<std::uint64_t>(name.data());
  if (raw_syscall(SYS_ioctl, maps_.get(), kProcmapQuery, &query) < 0 || query.name_size == 0) return false;
  return name[0] == '/' && !std::string_view(name.data(), query.name_size - 1).ends_with(" (deleted)");
}

std::optional<MappingInfo> AddressSpace::find(std::uint64_t address, Which which) const noexcept {
  return has_query_ ? find_by_ioctl(address, which) : find_in_file(address, which, {});
}

std::optional<MappingInfo> AddressSpace::find_by_ioctl(std::uint64_t address, Which which) const noexcept {
  ProcmapQuery query{};
  query.size = sizeof query;
  query.query_flags = which == Which::kContainingOrNext ? kQueryOrNext : 0;
  query.query_address = address;
  if (raw_syscall(SYS_ioctl, maps_.get(), kProcmapQuery, &query) < 0) return std::nullopt;
  int protection = ((query.flags & kQueryReadable) != 0 ? PROT_READ : 0) |
                   ((query.flags & kQueryWritable) != 0 ? PROT_WRITE : 0) |
                   ((query.flags & kQueryExecutable) != 0 ? PROT_EXEC : 0);
  const FileIdentity file{query.device_major, query.device_minor, query.inode};
  return MappingInfo{{query.start, query.end - query.start},
                     protection,
                     (query.flags & kQueryShared) != 0,
                     file == FileIdentity{},
                     false,
                     file,
                     query.offset,
                     query.page_size};
}

std::optional<MappingInfo> AddressSpace::find_in_file(std::uint64_t address, Which which,
                                                      std::span<char> name) const noexcept {
  char buffer[16 * 1024];
  std::size_t filled = 0;
  std::int64_t offset = 0;
  for (;;) {
    long size = raw_syscall(SYS_pread64, maps_.get(), buffer + filled, sizeof buffer - filled, offset);
    if (size == -EINTR) continue;
    if (size <= 0) return std::nullopt;
    offset += size;
    filled += static_cast<std::size_t>(size);
    std::string_view text(buffer, filled);
    for (std::size_t newline; (newline = text.find('\n')) != std::string_view::npos; text.remove_prefix(newline + 1)) {
      MappingInfo info;
      if (!parse_maps_line(text.substr(0, newline), &info)) continue;
      if (address >= info.range.end()) continue;
      if (address < info.range.start && which == Which::kContaining) return std::nullopt;
      copy_name(text.substr(0, newline), name);
      return info;
    }
    // Keep the beginning of an unfinished line; a line longer than the buffer cannot be (paths end at 4 KiB).
    filled = text.size();
    for (std::size_t i = 0; i < filled; ++i) buffer[i] = text[i];
  }
}

void AddressSpace::clip_to_exclusions(std::uint64_t address, MappingInfo* info) const noexcept {
  std::uint64_t start = info->range.start;
  std::uint64_t end = info->range.end();
  const std::size_t count = __atomic_load_n(&exclusion_count_, __ATOMIC_ACQUIRE);
  for (std::size_t i = 0; i < count; ++i) {
    const Range& excluded = exclusions_[i];
    if (excluded.end() <= start || excluded.start >= end) continue;
    if (address >= excluded.start && address < excluded.end()) {
      info->excluded = true;
      start = std::max(start, excluded.start);
      end = std::min(end, excluded.end());
    } else if (excluded.end() <= address) {
      start = std::max(start, excluded.end());
    } else {
      end = std::min(end, excluded.start);
    }
  }
  info->file_offset += start - info->range.start;
  info->range = {start, end - start};
}

void AddressSpace::exclude(Range range) {
  if (exclusion_count_ == kMaxExclusions) {
    log_error("too many ranges are excluded from migration; {:#x}-{:#x} is not", range.start, range.end());
    return;
  }
  exclusions_[exclusion_count_] = range;
  __atomic_store_n(&exclusion_count_, exclusion_count_ + 1, __ATOMIC_RELEASE);
}

void AddressSpace::exclude_own_objects() {
  exclude({window::kWindow.start, window::kWindow.size});
  struct Search {
    AddressSpace* space;
    std::uint64_t wanted[4];
  };
  Search search{this,
                {reinterpret_cast<std::uint64_t>(&parse_maps_line), reinterpret_cast<std::uint64_t>(&::strerror_r),
                 reinterpret_cast<std::uint64_t>(static_cast<void* (*)(std::size_t)>(&::operator new)),
                 reinterpret_cast<std::uint64_t>(&hms::decide)}};
  dl_iterate_phdr(
      [](dl_phdr_info* object, std::size_t, void* argument) {
        auto* find = static_cast<Search*>(argument);
        auto name = std::string_view(object->dlpi_name);
        bool ours = name.find("ld-linux") != name.npos || name.find("libstdc++") != name.npos ||
                    name.find("libfmt") != name.npos || name.find("san.so") != name.npos ||
                    name.find("libgcc_s") != name.npos;
        for (int i = 0; i < object->dlpi_phnum && !ours; ++i) {
          const auto& header = object->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          for (std::uint64_t address : find->wanted) {
            std::uint64_t start = object->dlpi_addr + header.p_vaddr;
            ours = ours || (address >= start && address < start + header.p_memsz);
          }
        }
        for (int i = 0; i < object->dlpi_phnum && ours; ++i) {
          const auto& header = object->dlpi_phdr[i];
          if (header.p_type != PT_LOAD || (header.p_flags & PF_W) == 0) continue;
          std::uint64_t start = page_down(object->dlpi_addr + header.p_vaddr);
          find->space->exclude({start, page_up(object->dlpi_addr + header.p_vaddr + header.p_memsz) - start});
        }
        return 0;
      },
      &search);
}

int AddressSpace::read(std::uint64_t address, void* destination, std::uint64_t size) const noexcept {
  std::uint64_t done = 0;
  while (done < size) {
    long count =
        raw_syscall(SYS_pread64, memory_.get(), static_cast<char*>(destination) + done, size - done, address + done);
    if (count == -EINTR) continue;
    if (count < 0) return static_cast<int>(count);
    if (count == 0) return -EIO;
    done += static_cast<std::uint64_t>(count);
  }
  return 0;
}

int AddressSpace::present_pages(Range range, PageMask* present) const noexcept {
  // Mostly all are there, or few. Else, and before Linux 6.7, page by page.
  constexpr PagemapFilter kHolds{.any = kPageIsPresent | kPageIsSwapped};
  std::array<PagemapRegion, 8> found;
  std::uint64_t walked_to = 0;
  const long count = range.size <= 8 * kPageSize
                         ? -ENOTTY
                         : scan_pagemap(pagemap_.get(), range.start, range.size, kHolds, found, &walked_to);
  if (count >= 0 && walked_to == range.end()) {
    present->reset();
    for (const PagemapRegion& region : std::span(found).first(static_cast<std::size_t>(count))) {
      present->set(PageRun{static_cast<unsigned>((region.start - range.start) / kPageSize),
                           static_cast<unsigned>((region.end - region.start) / kPageSize)});
    }
    return 0;
  }
  std::uint64_t entries[kBlockPages];
  if (int error = read_pagemap(pagemap_.get(), range.start, range.size, entries); error != 0) return error;
  present->reset();
  for (unsigned page = 0; page < range.size / kPageSize; ++page) {
    if ((entries[page] & kHoldsSomething) != 0) present->set(page);
  }
  return 0;
}

bool AddressSpace::is_huge(Range range) const noexcept {
  return is_mapped_huge(pagemap_.get(), range.start, range.size);
}

bool AddressSpace::has_guard(Range range) const noexcept {
  std::uint64_t entries[kBlockPages];
  if (read_pagemap(pagemap_.get(), range.start, range.size, entries) != 0) return false;
  return std::any_of(entries, entries + range.size / kPageSize,
                     [](std::uint64_t entry) { return (entry & kPagemapGuard) != 0; });
}

int AddressSpace::all_private(Range range) const noexcept {
  std::uint64_t entries[kBlockPages];
  if (int error = read_pagemap(pagemap_.get(), range.start, range.size, entries); error != 0) return error;
  for (unsigned page = 0; page < range.size / kPageSize; ++page) {
    if ((entries[page] & kHoldsSomething) == 0 || (entries[page] & kPagemapOfFile) != 0) return -EAGAIN;
  }
  return 0;
}

}  // namespace mirrorcl::mirror
