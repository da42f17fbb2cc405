// SPDX-License-Identifier: Apache-2.0
#include "icd/core/machine.h"

#include <sched.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <fstream>
#include <string>
#include <string_view>

#include "base/memory_limit.h"
#include "base/options.h"
#include "device/window.h"

namespace mirrorcl::icd {
namespace {

// The first line of a file, empty if it cannot be read.
std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

cl_ulong to_number(std::string_view text) noexcept {
  cl_ulong number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

std::string_view trimmed(std::string_view text) noexcept {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return text;
}

// The first processor's section of /proc/cpuinfo.
void read_processor(DeviceFacts& facts) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && !line.empty()) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string_view key = trimmed(std::string_view(line).substr(0, colon));
    const std::string_view value = trimmed(std::string_view(line).substr(colon + 1));
    if (key == "model name") facts.name = value;
    if (key == "vendor_id") facts.vendor = value;
    if (key == "cpu MHz") facts.clock_mhz = static_cast<cl_uint>(to_number(value));  // the fraction is dropped
  }
  if (facts.vendor == "GenuineIntel") facts.vendor_id = 0x8086;
  if (facts.vendor == "AuthenticAMD") facts.vendor_id = 0x1022;
  // The present frequency says little about the highest; take that where the kernel tells it (in kHz).
  const cl_ulong maximum = to_number(first_line("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"));
  if (maximum != 0) facts.clock_mhz = static_cast<cl_uint>(maximum / 1000);
}

void read_caches(DeviceFacts& facts) {
  cl_ulong second_level = 0;
  cl_ulong highest_level = 0;
  for (int index = 0;; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    const cl_ulong level = to_number(first_line(folder + "level"));
    if (level == 0) break;
    if (first_line(folder + "type") == "Instruction") continue;
    std::uint64_t size = 0;
    if (!parse_size(first_line(folder + "size"), &size)) continue;
    if (level == 2) second_level = size;
    if (level >= highest_level) {
      highest_level = level;
      facts.cache_size = size;
      facts.cache_line_size = static_cast<cl_uint>(to_number(first_line(folder + "coherency_line_size")));
    }
  }
  if (facts.cache_line_size == 0) facts.cache_line_size = 64;
  // Local memory is ordinary memory of the compute unit. More than half of the core's own cache would be no faster than
  // global memory.
  facts.local_memory_size = std::clamp<cl_ulong>(second_level / 2, 64 << 10, window::kUnitLocalMemory / 2);
}

cl_uint usable_processors() noexcept {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<cl_uint>(std::max(1, CPU_COUNT(&set)));
}

// Bytes of memory of a NUMA node; 0: there is no such node.
cl_ulong node_memory(int node) {
  if (node < 0) return 0;
  std::ifstream file("/sys/devices/system/node/node" + std::to_string(node) + "/meminfo");
  constexpr std::string_view kTotal = "MemTotal:";
  for (std::string line; std::getline(file, line);) {  // "Node 0 MemTotal:       24674116 kB"
    const std::size_t at = line.find(kTotal);
    if (at != std::string::npos) return to_number(trimmed(std::string_view(line).substr(at + kTotal.size()))) << 10;
  }
  return 0;
}

}  // namespace

DeviceFacts read_machine() {
  DeviceFacts facts;
  read_processor(facts);
  read_caches(facts);
  facts.name = facts.name.empty() ? "MirrorCL CPU device" : "MirrorCL on " + facts.name;
  if (facts.vendor.empty()) facts.vendor = "unknown";

  const cl_uint units = options().compute_units != 0 ? options().compute_units : usable_processors();
  facts.compute_units = std::min<cl_uint>(units, window::kMaxUnits);

  facts.memory_size = options().device_memory;
  if (facts.memory_size == 0) {
    const cl_ulong usable = usable_memory();
    const cl_ulong of_node = node_memory(options().device_memory_node);
    facts.memory_size = (of_node != 0 ? std::min(of_node, usable) : usable) / 2;
  }
  return facts;
}

cl_uint vector_bytes() noexcept {
  if (__builtin_cpu_supports("avx512f")) return 64;
  if (__builtin_cpu_supports("avx2")) return 32;
  return 16;
}

}  // namespace mirrorcl::icd
