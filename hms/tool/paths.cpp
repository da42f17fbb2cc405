// SPDX-License-Identifier: Apache-2.0
// hms paths: every way from an initiator to a memory, or to another initiator's links.
#include <fmt/format.h>

#include <memory>

#include "hms/query.h"
#include "hms/render.h"
#include "hms/tool/command.h"

namespace mirrorcl::hms::tool {
namespace {

struct Options {
  std::string from, to;
  std::size_t limit = 100;
};

std::string text_of(const Topology& topology, const Path& path) {
  std::string text;
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    const auto property = static_cast<Property>(i);
    const auto value = path.figures.properties.get(property);
    if (!value) continue;
    text += fmt::format("{}{} {} ({})", text.empty() ? "" : ", ", name_of(property), figure_text(property, *value),
                        name_of(value->source));
  }
  if (text.empty()) text = "no figures";
  text +=
      fmt::format("{}{}\n", path.figures.coherent ? "" : ", not coherent", path.figures.atomic ? "" : ", no atomics");
  for (std::size_t i = 0; i < path.hops.size(); ++i) {
    const Uid hop = path.hops[i];
    text += fmt::format("  {} {}\n", i % 2 == 0 ? "link" : "bridge", topology.object(hop)->name);
  }
  return text;
}

Result<void> run(const Topology& topology, const Options& options) {
  const auto from = initiator_named(topology, options.from);
  if (!from) return tl::unexpected(from.error());
  auto to = target_named(topology, options.to);
  if (!to) {
    const auto peer = initiator_named(topology, options.to);
    if (!peer) return tl::unexpected(to.error());
    to = peer;
  }
  const auto found = paths(topology, *from, *to, options.limit);
  if (!found) return tl::unexpected(found.error());
  std::string text;
  for (const Path& path : *found) text += text_of(topology, path);
  if (found->empty()) {
    text = fmt::format("{} does not reach {}\n", topology.object(*from)->name, topology.object(*to)->name);
  }
  return write_output(text, "");
}

}  // namespace

void add_paths(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("paths", "every way from an initiator to a memory, widest first");
  command->add_option("from", options->from, "the initiator: a name or uid of 'hms show', cpu:NUMBER, a device")
      ->required();
  command->add_option("to", options->to, "the memory: a name or uid, node:NUMBER, a device; or another initiator")
      ->required();
  command->add_option("-n", options->limit, "look for at most so many")->capture_default_str();
  command->callback([options, &context] {
    const auto topology = load_topology(context);
    if (!topology) return;
    if (const auto done = run(*topology, *options); !done) complain(context, done.error());
  });
}

}  // namespace mirrorcl::hms::tool
