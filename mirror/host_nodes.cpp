// SPDX-License-Identifier: Apache-2.0
#include "mirror/host_nodes.h"

#include <fcntl.h>
#include <linux/mempolicy.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/raw_syscall.h"
#include "hms/id_set.h"
#include "mirror/clock.h"

namespace mirrorcl::mirror {
namespace {

constexpr unsigned kMaxNodes = 1024;  // CONFIG_NODES_SHIFT is at most 10
constexpr std::uint64_t kBelievedNs = 10'000'000;

std::string line_of(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

// Writes `number` and a zero to `to`.
void print(char* to, std::uint32_t number) noexcept {
  char digits[10];
  unsigned count = 0;
  do {
    digits[count++] = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  while (count != 0) *to++ = digits[--count];
  *to = 0;
}

}  // namespace

void HostNodes::open(std::string_view sysfs) {
  const std::filesystem::path folder(sysfs);
  const auto nodes = hms::IdSet::parse(line_of(folder / "has_memory"));
  several_ = nodes && nodes->count() > 1;
  if (!several_) return;
  const auto all = hms::IdSet::parse(line_of(folder / "online"));
  for (const std::uint32_t node : all ? all->members() : std::vector<std::uint32_t>{}) {
    const auto cpus = hms::IdSet::parse(line_of(folder / ("node" + std::to_string(node)) / "cpulist"));
    if (!cpus || node >= kMaxNodes) continue;
    for (const std::uint32_t cpu : cpus->members()) {
      if (cpu >= node_of_cpu_.size()) node_of_cpu_.resize(cpu + 1, std::int16_t{kUnknownNode});
      node_of_cpu_[cpu] = static_cast<std::int16_t>(node);
    }
  }
  int mode = MPOL_DEFAULT;
  follows_threads_ = raw_syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) == 0 && mode == MPOL_DEFAULT;
}

int HostNodes::node_of(std::uint64_t address) const noexcept {
  if (!several_) return kUnknownNode;
  auto* page = reinterpret_cast<void*>(address);
  int node = kUnknownNode;
  if (raw_syscall(SYS_move_pages, 0, 1, &page, nullptr, &node, 0) != 0) return kUnknownNode;
  return std::max(node, kUnknownNode);  // also an error: no page there
}

int HostNodes::cpu_in_stat(std::string_view line) noexcept {
  constexpr unsigned kFieldsBetween = 37;        // the name, in brackets, is the second, the processor the 39th
  const std::size_t name_end = line.rfind(')');  // the name may hold anything
  if (name_end == std::string_view::npos) return -1;
  std::size_t at = name_end;
  for (unsigned i = 0; i < kFieldsBetween; ++i) {
    at = line.find(' ', at + 1);
    if (at == std::string_view::npos) return -1;
  }
  int cpu = -1;
  for (++at; at < line.size() && line[at] >= '0' && line[at] <= '9' && cpu < 1 << 20; ++at) {
    cpu = std::max(cpu, 0) * 10 + (line[at] - '0');
  }
  return cpu;
}

int HostNodes::look_up(std::uint32_t id) const noexcept {
  char path[48] = "/proc/self/task/";
  char* end = path + std::char_traits<char>::length(path);
  print(end, id);
  end += std::char_traits<char>::length(end);
  __builtin_memcpy(end, "/stat", sizeof "/stat");
  const long file = raw_syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return kUnknownNode;
  char text[1024];
  const long size = raw_syscall(SYS_read, file, text, sizeof text);
  raw_syscall(SYS_close, file);
  const int cpu = size <= 0 ? -1 : cpu_in_stat({text, static_cast<std::size_t>(size)});
  return cpu < 0 || static_cast<std::size_t>(cpu) >= node_of_cpu_.size() ? kUnknownNode
                                                                         : node_of_cpu_[static_cast<std::size_t>(cpu)];
}

bool HostNodes::has_policy(std::uint64_t address) const noexcept {
  if (!several_) return false;
  int mode = MPOL_DEFAULT;
  return raw_syscall(SYS_get_mempolicy, &mode, nullptr, 0, address, MPOL_F_ADDR) == 0 && mode != MPOL_DEFAULT;
}

int HostNodes::node_of_thread(std::uint32_t id) noexcept {
  if (!several_ || id == 0) return kUnknownNode;
  Seen& seen = seen_[id % seen_.size()];
  const std::uint64_t now = now_ns();
  if (seen.thread != id || now > seen.until_ns) seen = {id, look_up(id), now + kBelievedNs};
  return seen.node;
}

OnNode::OnNode(int node) noexcept {
  if (node < 0 || node >= static_cast<int>(kMaxNodes)) return;
  constexpr unsigned kWordBits = 64;
  unsigned long mask[kMaxNodes / kWordBits]{};
  const auto bit = static_cast<unsigned>(node);
  mask[bit / kWordBits] = 1UL << bit % kWordBits;
  changed_ = raw_syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask, kMaxNodes + 1) == 0;
}

OnNode::~OnNode() {
  if (changed_) raw_syscall(SYS_set_mempolicy, MPOL_DEFAULT, nullptr, 0);
}

}  // namespace mirrorcl::mirror
