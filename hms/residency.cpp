// SPDX-License-Identifier: Apache-2.0
#include "hms/residency.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>

#include "base/raw_syscall.h"
#include "base/unique_fd.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uint64_t kPageSize = 4096;

std::optional<std::string> read_text(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  if (file.bad()) return std::nullopt;
  return text.str();
}

template <typename Visit>
void for_lines(std::string_view text, const Visit& visit) {
  while (!text.empty()) {
    std::size_t end = text.find('\n');
    visit(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
}

// Takes the next word off the front of `line`; empty at its end.
std::string_view take_word(std::string_view& line) {
  std::size_t start = std::min(line.find_first_not_of(' '), line.size());
  std::size_t end = std::min(line.find(' ', start), line.size());
  std::string_view word = line.substr(start, end - start);
  line = line.substr(end);
  return word;
}

// The whole of `text` as a number.
template <typename T>
bool parse(std::string_view text, int base, T* value) {
  auto result = std::from_chars(text.data(), text.data() + text.size(), *value, base);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

std::optional<MappingResidency> parse_maps_line(std::string_view line) {
  std::string_view range = take_word(line);
  std::size_t dash = range.find('-');
  MappingResidency mapping;
  if (dash == std::string_view::npos || !parse(range.substr(0, dash), 16, &mapping.range.start) ||
      !parse(range.substr(dash + 1), 16, &mapping.range.end) || mapping.range.end <= mapping.range.start) {
    return std::nullopt;
  }
  for (int field = 0; field < 4; ++field) take_word(line);  // protection, offset, device, inode
  mapping.name = line.substr(std::min(line.find_first_not_of(' '), line.size()));
  mapping.shared_with_device = mapping.name.starts_with(kDeviceMemoryFile);
  return mapping;
}

// "N0=12 N1=3 kernelpagesize_kB=4"
void parse_counts(std::string_view words, MappingResidency& mapping) {
  std::uint64_t pages_each = 1;
  std::map<int, std::uint64_t> counts;
  for (std::string_view word = take_word(words); !word.empty(); word = take_word(words)) {
    std::size_t equals = word.find('=');
    if (equals == std::string_view::npos) continue;
    int node = 0;
    std::uint64_t number = 0;
    if (!parse(word.substr(equals + 1), 10, &number)) continue;
    if (word.starts_with('N') && parse(word.substr(1, equals - 1), 10, &node)) {
      counts[node] = number;
    } else if (word.starts_with("kernelpagesize_kB=") && number >= 4) {
      pages_each = number * 1024 / kPageSize;
    }
  }
  for (auto& [node, count] : counts) count *= pages_each;
  mapping.node_pages = std::move(counts);
}

// The memories of the process's devices, each opened by way of one of its descriptors.
std::vector<UniqueFd> open_device_memories(pid_t pid) {
  std::vector<UniqueFd> memories;
  std::set<ino_t> seen;  // one may have several descriptors
  std::error_code error;
  std::filesystem::directory_iterator links(fmt::format("/proc/{}/fd", pid), error);
  for (; !error && links != std::filesystem::directory_iterator(); links.increment(error)) {
    std::error_code ignored;
    std::string file = std::filesystem::read_symlink(links->path(), ignored);
    if (!file.starts_with(kDeviceMemoryFile)) continue;
    UniqueFd memory(open(links->path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status {};
    if (memory && fstat(memory.get(), &status) == 0 && S_ISREG(status.st_mode) && seen.insert(status.st_ino).second) {
      memories.push_back(std::move(memory));
    }
  }
  return memories;
}

bool holds_page(int fd, std::uint64_t page) {
  return lseek(fd, static_cast<off_t>(page), SEEK_DATA) == static_cast<off_t>(page);
}

Error no_such_process(pid_t pid) {
  return {ErrorCode::kInvalidArgument, fmt::format("there is no process {}", pid)};
}

Error not_this_users(pid_t pid) {
  return {ErrorCode::kInvalidArgument,
          fmt::format("the memory of process {} cannot be looked at: {} (run as its user or as root)", pid,
                      strerrordesc_np(EACCES))};
}

}  // namespace

std::vector<MappingResidency> parse_mappings(std::string_view maps, std::string_view numa_maps) {
  std::vector<MappingResidency> mappings;
  for_lines(maps, [&](std::string_view line) {
    if (auto mapping = parse_maps_line(line)) mappings.push_back(std::move(*mapping));
  });
  auto next = mappings.begin();
  for_lines(numa_maps, [&](std::string_view line) {
    std::uint64_t start = 0;
    if (!parse(take_word(line), 16, &start)) return;
    auto found = std::find_if(next, mappings.end(), [&](const auto& mapping) { return mapping.range.start == start; });
    if (found == mappings.end()) return;  // came or went between the two files
    parse_counts(line, *found);
    next = found;
  });
  return mappings;
}

void add_device_pages(int fd, std::vector<MappingResidency>& mappings) {
  for (MappingResidency& mapping : mappings) {
    std::uint64_t at = mapping.range.start;
    while (at < mapping.range.end) {
      off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
      if (data < 0 || static_cast<std::uint64_t>(data) >= mapping.range.end) break;
      off_t hole = lseek(fd, data, SEEK_HOLE);
      if (hole < 0) break;
      std::uint64_t end = std::min(static_cast<std::uint64_t>(hole), mapping.range.end);
      mapping.device_pages += (end - static_cast<std::uint64_t>(data)) / kPageSize;
      at = end;
    }
  }
}

Result<ProcessResidency> read_residency(pid_t pid) {
  ProcessResidency result;
  result.pid = pid;
  std::string folder = fmt::format("/proc/{}", pid);
  if (pid <= 0 || !std::filesystem::exists(folder)) {
    return tl::unexpected<Error>(no_such_process(pid));
  }
  auto maps = read_text(folder + "/maps");
  auto numa_maps = read_text(folder + "/numa_maps");
  if (!maps || !numa_maps) {
    if (std::filesystem::exists("/proc/self/numa_maps")) return tl::unexpected<Error>(not_this_users(pid));
    return fail(ErrorCode::kNotSupported, "this kernel does not count pages by node (CONFIG_NUMA is off)");
  }
  result.command = read_text(folder + "/comm").value_or("");
  while (!result.command.empty() && result.command.back() == '\n') result.command.pop_back();
  result.mappings = parse_mappings(*maps, *numa_maps);
  const std::vector<UniqueFd> memories = open_device_memories(pid);
  result.has_device = !memories.empty();
  for (const UniqueFd& memory : memories) add_device_pages(memory.get(), result.mappings);
  for (MappingResidency& mapping : result.mappings) {
    // Device memory as the process sees it; counted as the device's.
    if (mapping.shared_with_device) mapping.node_pages.clear();
  }
  std::erase_if(result.mappings, [](const MappingResidency& mapping) {
    return mapping.node_pages.empty() && mapping.device_pages == 0;
  });
  return result;
}

Result<PageResidency> read_page_residency(pid_t pid, std::uint64_t address) {
  const std::string folder = fmt::format("/proc/{}", pid);
  if (pid <= 0 || !std::filesystem::exists(folder)) return tl::unexpected<Error>(no_such_process(pid));
  const auto maps = read_text(folder + "/maps");
  const UniqueFd pagemap(open((folder + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  if (!maps || !pagemap) return tl::unexpected<Error>(not_this_users(pid));
  PageResidency result;
  for (const MappingResidency& mapping : parse_mappings(*maps, "")) {
    if (!mapping.range.contains(address)) continue;
    result.mapped = true;
    result.mapping = mapping.name;
    result.shared = mapping.shared_with_device;
    result.pinned =
        std::ranges::any_of(kPinnedMemoryFiles, [&](std::string_view file) { return mapping.name.starts_with(file); });
  }
  constexpr std::uint64_t kHoldsSomething = std::uint64_t{3} << 62;  // present or swapped
  std::uint64_t entry = 0;
  const auto offset = static_cast<off_t>(address / kPageSize * sizeof entry);
  result.on_host = pread(pagemap.get(), &entry, sizeof entry, offset) == sizeof entry && (entry & kHoldsSomething) != 0;
  void* page = reinterpret_cast<void*>(address & ~(kPageSize - 1));
  int node = -1;
  if (raw_syscall(SYS_move_pages, pid, 1, &page, nullptr, &node, 0) == 0) result.node = std::max(node, -1);
  for (const UniqueFd& memory : open_device_memories(pid)) {
    result.on_device = result.on_device || holds_page(memory.get(), address & ~(kPageSize - 1));
  }
  return result;
}

std::map<int, std::uint64_t> ProcessResidency::node_pages() const {
  std::map<int, std::uint64_t> sum;
  for (const MappingResidency& mapping : mappings) {
    for (auto [node, pages] : mapping.node_pages) sum[node] += pages;
  }
  return sum;
}

std::uint64_t ProcessResidency::device_pages() const {
  return std::accumulate(mappings.begin(), mappings.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const MappingResidency& mapping) { return sum + mapping.device_pages; });
}

std::uint64_t ProcessResidency::shared_device_pages() const {
  return std::accumulate(mappings.begin(), mappings.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const MappingResidency& mapping) {
                           return sum + (mapping.shared_with_device ? mapping.device_pages : 0);
                         });
}

}  // namespace mirrorcl::hms
