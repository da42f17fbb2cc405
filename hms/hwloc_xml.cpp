// SPDX-License-Identifier: Apache-2.0
#include "hms/hwloc_xml.h"

#include <string_view>

namespace mirrorcl::hms {
namespace {

constexpr std::string_view kVersion3 = "<topology version=\"3.";

// Version 3 has a bit for each type of I/O device, version 2 a number. The first bit decides.
std::string type_of_version_2(std::string_view bits) {
  unsigned mask = 0;
  for (const char c : bits) {
    if (c < '0' || c > '9' || mask > 1000) return std::string(bits);
    mask = mask * 10 + static_cast<unsigned>(c - '0');
  }
  if ((mask & 3) != 0) return "0";   // storage, memory: block
  if ((mask & 4) != 0) return "1";   // GPU
  if ((mask & 8) != 0) return "5";   // co-processor
  if ((mask & 16) != 0) return "2";  // network
  if ((mask & 32) != 0) return "3";  // OpenFabrics
  return "4";                        // DMA
}

void renumber_device_types(std::string& xml) {
  constexpr std::string_view kKey = "osdev_type=\"";
  for (std::size_t at = xml.find(kKey); at != std::string::npos; at = xml.find(kKey, at)) {
    at += kKey.size();
    const std::size_t end = xml.find('"', at);
    if (end == std::string::npos) return;
    const std::string type = type_of_version_2(std::string_view(xml).substr(at, end - at));
    xml.replace(at, end - at, type);
    at += type.size();
  }
}

// <info> tags behind the last object belong to the topology in version 3, to the root object in version 2.
void move_infos(std::string& xml) {
  constexpr std::string_view kClose = "</object>", kInfo = "<info ";
  const std::size_t root = xml.find("<object ");
  const std::size_t root_end = root == std::string::npos ? root : xml.find('>', root);
  const std::size_t last = xml.rfind(kClose);
  if (root_end == std::string::npos || last == std::string::npos || last < root_end) return;
  std::string infos;
  for (std::size_t at = xml.find(kInfo, last); at != std::string::npos; at = xml.find(kInfo, at)) {
    const std::size_t end = xml.find('>', at);
    if (end == std::string::npos) break;
    infos += xml.substr(at, end + 1 - at);
    xml.erase(at, end + 1 - at);
  }
  xml.insert(root_end + 1, infos);
}

}  // namespace

std::string as_hwloc_2_xml(std::string xml) {
  const std::size_t version = xml.find(kVersion3);
  if (version == std::string::npos) return xml;
  xml[version + kVersion3.size() - 2] = '2';
  renumber_device_types(xml);
  move_infos(xml);
  return xml;
}

}  // namespace mirrorcl::hms
