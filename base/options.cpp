// SPDX-License-Identifier: Apache-2.0
#include "base/options.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "base/log.h"
#include "base/memory_limit.h"

namespace mirrorcl {
namespace {

constexpr std::uint64_t kMostSpareMemory = std::uint64_t{256} << 20;

std::string environment(const char* name, const char* fallback = "") {
  // The environment is read once, before any thread of the driver runs.
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return value != nullptr ? value : fallback;
}

void read_size(const char* name, std::uint64_t* value) {
  std::string text = environment(name);
  if (!text.empty() && !parse_size(text, value)) log_warning("{}={} is not a size; ignored", name, text);
}

void read_number(const char* name, std::uint32_t* value) {
  std::uint64_t wide = *value;
  read_size(name, &wide);
  *value = static_cast<std::uint32_t>(wide > UINT32_MAX ? UINT32_MAX : wide);
}

DeviceKind read_device_kind() {
  const std::string text = environment("MIRRORCL_DEVICE", "auto");
  if (text == "ats") return DeviceKind::kAts;
  if (text == "mirrored") return DeviceKind::kMirrored;
  if (text != "auto") log_warning("MIRRORCL_DEVICE={} is none of auto, mirrored and ats; ignored", text);
  return DeviceKind::kAuto;
}

bool read_memory_kind() {
  const std::string text = environment("MIRRORCL_DEVICE_MEMORY_KIND", "mappable");
  if (text != "mappable" && text != "private") {
    log_warning("MIRRORCL_DEVICE_MEMORY_KIND={} is neither mappable nor private; ignored", text);
  }
  return text == "private";
}

int read_memory_node() {
  const std::string text = environment("MIRRORCL_DEVICE_MEMORY_NODE", "auto");
  if (text == "auto") return Options::kBestNode;
  if (text == "none") return Options::kAnyNode;
  int node = 0;
  const char* end = text.data() + text.size();
  if (auto [stop, error] = std::from_chars(text.data(), end, node); error == std::errc() && stop == end && node >= 0) {
    return node;
  }
  log_warning("MIRRORCL_DEVICE_MEMORY_NODE={} is none of auto, none and the number of a NUMA node; ignored", text);
  return Options::kBestNode;
}

Options::LaunchAhead read_launch_ahead() {
  const std::string text = environment("MIRRORCL_LAUNCH_AHEAD", "1");
  if (text == "0") return Options::LaunchAhead::kNever;
  if (text == "always") return Options::LaunchAhead::kAlways;
  if (text != "1") log_warning("MIRRORCL_LAUNCH_AHEAD={} is none of 0, 1 and always; ignored", text);
  return Options::LaunchAhead::kOnSpareCpus;
}

std::string default_cache_dir() {
  std::string own = environment("MIRRORCL_CACHE_DIR");
  if (!own.empty()) return own;
  std::string xdg = environment("XDG_CACHE_HOME");
  if (!xdg.empty()) return xdg + "/mirrorcl";
  std::string home = environment("HOME");
  return home.empty() ? std::string() : home + "/.cache/mirrorcl";
}

Options read_options() {
  Options o;
  o.log = environment("MIRRORCL_LOG", "warning");
  o.device = read_device_kind();
  read_number("MIRRORCL_DEVICES", &o.devices);
  if (o.devices == 0) o.devices = 1;
  read_number("MIRRORCL_COMPUTE_UNITS", &o.compute_units);
  read_size("MIRRORCL_DEVICE_MEMORY", &o.device_memory);
  o.spare_memory = std::min(kMostSpareMemory, usable_memory() / 64);
  read_size("MIRRORCL_SPARE_MEMORY", &o.spare_memory);
  o.private_memory = read_memory_kind();
  o.device_memory_node = read_memory_node();
  read_number("MIRRORCL_SPIN_US", &o.spin_us);
  o.library_dir = environment("MIRRORCL_LIBRARY_DIR");
  o.pocl_library = environment("MIRRORCL_POCL");
  o.cache_dir = default_cache_dir();
  o.cache = environment("MIRRORCL_CACHE", "1") != "0";
  o.launch_ahead = read_launch_ahead();
  o.evacuate = environment("MIRRORCL_EVACUATE", "0") != "0";
  if (environment("MIRRORCL_DISABLE", "0") != "0") o.disable_reason = "switched off by MIRRORCL_DISABLE";
  return o;
}

}  // namespace

const Options& options() {
  static const Options* const instance = new Options(read_options());
  return *instance;
}

bool parse_size(const std::string& text, std::uint64_t* bytes) {
  std::uint64_t number = 0;
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop == text.data()) return false;
  int shift = 0;
  if (stop != end) {
    switch (*stop++) {
      case 'K':
      case 'k':
        shift = 10;
        break;
      case 'M':
      case 'm':
        shift = 20;
        break;
      case 'G':
      case 'g':
        shift = 30;
        break;
      case 'T':
      case 't':
        shift = 40;
        break;
      default:
        return false;
    }
  }
  if (stop != end || (number << shift) >> shift != number) return false;
  *bytes = number << shift;
  return true;
}

}  // namespace mirrorcl
