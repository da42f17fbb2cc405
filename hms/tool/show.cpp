// SPDX-License-Identifier: Apache-2.0
// hms show: the whole topology, for people and for programs.
#include <memory>

#include "hms/json_file.h"
#include "hms/render.h"
#include "hms/tool/command.h"
#include "hms/tree_file.h"

namespace mirrorcl::hms::tool {
namespace {

struct Options {
  bool json = false, dot = false, svg = false;
  std::string tree;
  std::string output;
  std::size_t most = 8;
};

Result<void> show(const Topology& topology, const Options& options) {
  if (!options.tree.empty()) return write_tree(topology, options.tree);
  if (options.json) return write_output(to_json(topology), options.output);
  if (options.dot) return write_output(to_dot(topology), options.output);
  if (options.svg) return write_output(to_svg(topology), options.output);
  return write_output(to_text(topology, options.most), options.output);
}

}  // namespace

void add_show(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("show", "the memories, who reaches them, and how well");
  CLI::Option_group* format = command->add_option_group("format", "instead of a text");
  format->add_flag("--json", options->json, "as JSON, which --topology reads again");
  format->add_flag("--dot", options->dot, "as a graph for graphviz");
  format->add_flag("--svg", options->svg, "as a drawing");
  format->add_option("--tree", options->tree, "make FOLDER a tree with the names of the HMS proposal's sysfs")
      ->type_name("FOLDER");
  format->require_option(0, 1);
  command->add_option("-o,--output", options->output, "write to FILE")->type_name("FILE");
  command->add_option("-n", options->most, "show at most so many memories for each initiator")->capture_default_str();
  command->callback([options, &context] {
    const auto topology = load_topology(context);
    if (!topology) return;
    if (const auto shown = show(*topology, *options); !shown) complain(context, shown.error());
  });
}

}  // namespace mirrorcl::hms::tool
