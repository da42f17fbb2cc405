// SPDX-License-Identifier: Apache-2.0
// hms residency: where the memory of a live process is.
#include "hms/residency.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "hms/host_memory.h"
#include "hms/render.h"
#include "hms/tool/command.h"
#include "hms/tool/place.h"

namespace mirrorcl::hms::tool {
namespace {

constexpr std::uint64_t kPageSize = HostMemory::kPageSize;

struct Options {
  pid_t pid = 0;
  std::vector<std::string> addresses;
  bool mappings = false;
  bool json = false;
};

std::string node_name(const Topology& topology, int node) {
  const Target* target = topology.target_of_node(node);
  return target == nullptr ? fmt::format("node {}", node) : target->name;
}

// Of all blocks together.
struct DevicePages {
  std::uint64_t only = 0;
  std::uint64_t duplicated = 0;
  std::uint64_t coherent = 0;
  std::uint64_t snapshot = 0;
};

DevicePages pages_of(const LiveState& state, const LiveDevice& device) {
  DevicePages sum;
  if (device.index >= live::kMaxDevices) return sum;
  for (const live::Block& block : state.blocks) {
    const auto& pages = block.devices[device.index];
    sum.only += pages.only;
    sum.duplicated += pages.duplicated;
    sum.coherent += pages.coherent;
    sum.snapshot += pages.snapshot;
  }
  return sum;
}

std::string json_of(const Topology& topology, const ProcessResidency& process, const LiveState* state, bool mappings) {
  using Json = nlohmann::ordered_json;
  const auto by_name = [&](const std::map<int, std::uint64_t>& pages) {
    Json object = Json::object();
    for (auto [node, count] : pages) object[node_name(topology, node)] = count * kPageSize;
    return object;
  };
  Json json = {{"pid", process.pid}, {"command", process.command}, {"host", by_name(process.node_pages())}};
  json["device"] = process.has_device ? Json(process.device_pages() * kPageSize) : Json(nullptr);
  json["device_shared"] = process.has_device ? Json(process.shared_device_pages() * kPageSize) : Json(nullptr);
  if (state != nullptr) {
    json["devices"] = Json::array();
    for (const LiveDevice& device : state->devices) {
      const DevicePages pages = pages_of(*state, device);
      json["devices"].push_back({{"name", device.name},
                                 {"only", pages.only * kPageSize},
                                 {"duplicated", pages.duplicated * kPageSize},
                                 {"coherent", pages.coherent * kPageSize},
                                 {"snapshots", pages.snapshot * kPageSize}});
    }
  }
  if (mappings) {
    json["mappings"] = Json::array();
    for (const MappingResidency& mapping : process.mappings) {
      json["mappings"].push_back({{"start", fmt::format("{:#x}", mapping.range.start)},
                                  {"end", fmt::format("{:#x}", mapping.range.end)},
                                  {"name", mapping.name},
                                  {"host", by_name(mapping.node_pages)},
                                  {"device", mapping.device_pages * kPageSize}});
    }
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string text_of(const Topology& topology, const ProcessResidency& process, const LiveState* state, bool mappings) {
  std::string text = fmt::format("process {} ({})\n", process.pid, process.command);
  const auto line = [](const std::string& name, std::uint64_t pages, const std::string& note) {
    return fmt::format("  {:<16} {:>10}  {:>12} pages{}\n", name, bytes_text(pages * kPageSize), pages, note);
  };
  for (auto [node, pages] : process.node_pages()) text += line(node_name(topology, node), pages, "");
  if (process.has_device) {
    const std::uint64_t shared = process.shared_device_pages();
    text += line("device memory", process.device_pages(),
                 shared == 0 ? "" : fmt::format(", {} of them mapped by the process too", shared));
  }
  if (state != nullptr) {
    for (const LiveDevice& device : state->devices) {
      const DevicePages pages = pages_of(*state, device);
      text += fmt::format("    mirrored by {}: {} pages only there, {} duplicated, {} coherent, {} snapshots\n",
                          device.name, pages.only, pages.duplicated, pages.coherent, pages.snapshot);
    }
    if (state->blocks_unlisted != 0) text += "    (and more, which the process had no room to list)\n";
  }
  if (!mappings) return text;
  for (const MappingResidency& mapping : process.mappings) {
    text += fmt::format("{:012x}-{:012x} {:>10}  ", mapping.range.start, mapping.range.end,
                        bytes_text(mapping.range.size()));
    for (auto [node, pages] : mapping.node_pages) text += fmt::format("{} {}  ", node_name(topology, node), pages);
    if (mapping.device_pages != 0) text += fmt::format("device {}  ", mapping.device_pages);
    text += mapping.name + "\n";
  }
  return text;
}

// A line for each address.
Result<std::string> pages_text(const Options& options, const LiveState* state) {
  std::string text;
  for (const std::string& name : options.addresses) {
    const auto address = address_named(name);
    if (!address) return tl::unexpected<Error>(address.error());
    const auto page = read_page_residency(options.pid, *address);
    if (!page) return tl::unexpected<Error>(page.error());
    text += fmt::format("{:#x} {}\n", *address, place_text(state, *address, *page));
  }
  return text;
}

Result<void> show(const Options& options, Context& context) {
  // A process without a mirror has memory too.
  std::optional<LiveState> state;
  if (const auto view = LiveView::open(options.pid)) {
    auto read = view->read();
    if (read) state = std::move(*read);
  }
  const LiveState* live = state ? &*state : nullptr;
  if (!options.addresses.empty()) {
    const auto text = pages_text(options, live);
    return text ? write_output(*text, "") : tl::unexpected<Error>(text.error());
  }
  const auto topology = load_topology(context);
  if (!topology) return {};
  const auto process = read_residency(options.pid);
  if (!process) return tl::unexpected<Error>(process.error());
  return write_output(options.json ? json_of(*topology, *process, live, options.mappings)
                                   : text_of(*topology, *process, live, options.mappings),
                      "");
}

}  // namespace

void add_residency(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("residency", "where the memory of a live process is");
  command->add_option("pid", options->pid, "the process")->required();
  command->add_option("address", options->addresses, "only where these addresses of it are, in hexadecimal");
  command->add_flag("--mappings", options->mappings, "each mapping too, with its pages");
  command->add_flag("--json", options->json, "as JSON, in bytes");
  command->callback([options, &context] {
    if (const auto done = show(*options, context); !done) complain(context, done.error());
  });
}

}  // namespace mirrorcl::hms::tool
