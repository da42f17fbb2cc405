// SPDX-License-Identifier: Apache-2.0
#include "hms/tool/place.h"

#include <fmt/format.h>

#include <algorithm>

namespace mirrorcl::hms::tool {
namespace {

std::string page_text(const PageResidency& page) {
  if (page.shared) {
    return page.on_device ? "is in device memory, which the application has mapped there too"
                          : "is device memory that nobody has touched";
  }
  if (page.pinned) {
    return page.on_host ? "is in host memory, which devices have mapped there too"
                        : "is host memory for devices and the application, which has not touched it";
  }
  if (page.on_device) {
    return page.on_host ? "is in device memory and with the application, as copies of each other"
                        : "is in device memory only";
  }
  return page.on_host ? "is with the application" : "has not been touched";
}

// Where the machine has several nodes.
std::string node_text(const LiveState* state, const PageResidency& page) {
  if (page.node < 0) return "";
  const Topology* machine = state != nullptr && state->topology ? &*state->topology : nullptr;
  const auto is_host = [](const Target& target) { return target.is_host(); };
  if (machine != nullptr && std::ranges::count_if(machine->targets(), is_host) == 1) return "";
  const Target* target = machine != nullptr ? machine->target_of_node(page.node) : nullptr;
  return " on " + (target != nullptr ? printable(target->name) : fmt::format("node{}", page.node));
}

std::string block_text(const LiveState& state, std::uint64_t address) {
  const live::Block* block = state.block(address);
  if (block == nullptr) return "";
  std::string text;
  for (const LiveDevice& device : state.devices) {
    if (device.index >= live::kMaxDevices) continue;
    const auto& pages = block->devices[device.index];
    text += fmt::format("; of the 2 MiB around it {} has {} pages for itself, {} as copies, {} that both map",
                        device.name, pages.only, pages.duplicated + pages.snapshot, pages.coherent);
  }
  return text;
}

}  // namespace

std::string place_text(const LiveState* state, std::uint64_t address, const PageResidency& page) {
  if (!page.mapped) return "is not mapped";
  const std::string name =
      page.mapping.empty() || page.shared || page.pinned ? "" : fmt::format("({}) ", printable(page.mapping));
  return name + page_text(page) + node_text(state, page) + (state == nullptr ? "" : block_text(*state, address));
}

}  // namespace mirrorcl::hms::tool
