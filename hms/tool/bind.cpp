// SPDX-License-Identifier: Apache-2.0
// hms bind: starts a program whose memory comes from given targets, or moves that of a running one.
#include <errno.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <sstream>
#include <vector>

#include "hms/host_memory.h"
#include "hms/render.h"
#include "hms/residency.h"
#include "hms/tool/command.h"

namespace mirrorcl::hms::tool {
namespace {

struct Options {
  std::string targets;  // divided by commas
  bool prefer = false;
  pid_t pid = 0;
};

// The nodes that the named targets are, in order.
Result<std::vector<int>> nodes_of(const Topology& topology, const std::string& names) {
  std::vector<int> nodes;
  for (std::stringstream list(names); list.good();) {
    std::string name;
    std::getline(list, name, ',');
    const auto uid = target_named(topology, name);
    if (!uid) return tl::unexpected(uid.error());
    const Target& target = *topology.target(*uid);
    if (!target.is_host()) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("{} is not memory that the kernel hands out: only a program itself can bind memory to "
                              "it, with hbind()",
                              target.name));
    }
    if (!kernel_host_memory().may_use(target.node)) {
      return fail(
          ErrorCode::kInvalidArgument,
          fmt::format("this process may not use {}: its cpuset leaves it out, or the node is offline", target.name));
    }
    nodes.push_back(target.node);
  }
  return nodes;
}

Result<void> start(const std::vector<int>& nodes, bool prefer, const std::vector<std::string>& command) {
  const HostPolicy policy{prefer ? HostPolicy::Mode::kPrefer : HostPolicy::Mode::kBind, nodes};
  if (const int error = set_process_policy(policy); error != 0) {
    return fail_errno("the kernel does not take the policy", -error);
  }
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  return fail_errno(fmt::format("cannot start '{}'", command[0]), errno);
}

std::uint64_t pages_on(const ProcessResidency& residency, const std::vector<int>& nodes) {
  std::uint64_t sum = 0;
  for (auto [node, pages] : residency.node_pages()) {
    if (std::find(nodes.begin(), nodes.end(), node) != nodes.end()) sum += pages;
  }
  return sum;
}

Result<void> move(pid_t pid, const std::vector<int>& nodes) {
  const auto before = read_residency(pid);
  if (!before) return tl::unexpected(before.error());
  std::vector<int> settled;
  for (int node : nodes) {
    settled.push_back(node);
    std::vector<int> from;
    for (auto [other, pages] : before->node_pages()) {
      if (std::find(settled.begin(), settled.end(), other) == settled.end()) from.push_back(other);
    }
    if (from.empty()) break;
    if (const long left = move_process(pid, from, node); left < 0) {
      return fail_errno(fmt::format("the memory of process {} cannot be moved to node {}", pid, node),
                        static_cast<int>(-left));
    }
  }
  const auto after = read_residency(pid);
  if (!after) return tl::unexpected(after.error());
  const std::uint64_t there = pages_on(*after, nodes);
  const std::uint64_t was_there = pages_on(*before, nodes);
  std::uint64_t elsewhere = 0;
  for (auto [node, pages] : after->node_pages()) elsewhere += pages;
  elsewhere -= there;
  return write_output(
      fmt::format("{} moved; {} are there, {} elsewhere\n",
                  bytes_text((there > was_there ? there - was_there : 0) * HostMemory::kPageSize),
                  bytes_text(there * HostMemory::kPageSize), bytes_text(elsewhere * HostMemory::kPageSize)),
      "");
}

Result<void> run(const Topology& topology, const Options& options, const std::vector<std::string>& command) {
  const auto nodes = nodes_of(topology, options.targets);
  if (!nodes) return tl::unexpected(nodes.error());
  if ((options.pid != 0) == !command.empty()) {
    return fail(ErrorCode::kInvalidArgument, "say what to bind: a command to start, or a running process with --pid");
  }
  return options.pid != 0 ? move(options.pid, *nodes) : start(*nodes, options.prefer, command);
}

}  // namespace

void add_bind(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "bind", "start a program whose memory comes from given memories, or move that of a running one");
  command->add_option("targets", options->targets, "names or uids of 'hms show', or node:NUMBER, divided by commas")
      ->required();
  command->add_flag("--prefer", options->prefer, "only as long as the first of them has room");
  command->add_option("--pid", options->pid, "a running process: what it has is moved, its policy is not changed");
  command->footer("The command and its options follow: hms bind hbm0 ./program -x");
  command->prefix_command();
  command->fallthrough(false);
  command->callback([command, options, &context] {
    const auto topology = load_topology(context);
    if (!topology) return;
    if (const auto done = run(*topology, *options, command->remaining()); !done) complain(context, done.error());
  });
}

}  // namespace mirrorcl::hms::tool
