// SPDX-License-Identifier: Apache-2.0
// What the subcommands of `hms` share. Each subcommand is one file that adds itself to the application.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "hms/topology.h"

namespace mirrorcl::hms::tool {

struct Context {
  std::string topology;  // --topology: a file, a folder, or "" for this machine
  int status = 0;        // what main() returns; subcommands set it
};

void add_show(CLI::App& app, Context& context);
void add_best(CLI::App& app, Context& context);
void add_paths(CLI::App& app, Context& context);
void add_measure(CLI::App& app, Context& context);
void add_bind(CLI::App& app, Context& context);
void add_residency(CLI::App& app, Context& context);
void add_stats(CLI::App& app, Context& context);
void add_why(CLI::App& app, Context& context);

// Prints "hms: MESSAGE" and makes the tool fail.
void complain(Context& context, const Error& error);

// The topology that the user asked for; complains if it cannot be had.
std::optional<Topology> load_topology(Context& context);

// What a user may call an initiator: its uid, its name, "cpu:12", or a device. The error lists what there is.
Result<Uid> initiator_named(const Topology& topology, const std::string& text);
// Its uid, its name, "node:3", or a device with one memory.
Result<Uid> target_named(const Topology& topology, const std::string& text);

// An address of a process, hexadecimal with or without 0x, as /proc/PID/maps shows them.
Result<std::uint64_t> address_named(const std::string& text);

// Writes to standard output, or to `file` if that is not empty.
Result<void> write_output(std::string_view text, const std::string& file);

}  // namespace mirrorcl::hms::tool
