// SPDX-License-Identifier: Apache-2.0
// hms measure: figures that firmware does not give, kept for this machine.
#include "hms/measure.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/options.h"
#include "hms/discovery.h"
#include "hms/measurements.h"
#include "hms/render.h"
#include "hms/tool/command.h"

namespace mirrorcl::hms::tool {
namespace {

struct Options {
  MeasureOptions measure;
  unsigned milliseconds = 200;
  std::string memory;
  bool forget = false;
};

Result<void> forget(const std::string& path) {
  if (std::remove(path.c_str()) != 0 && errno != ENOENT)
    return fail_errno(fmt::format("cannot remove {}", path), errno);
  fmt::print("{} is gone\n", path);
  return {};
}

void print(const Topology& topology, const Measurements& measurements) {
  for (const Initiator& initiator : topology.initiators()) {
    for (const Target& target : topology.targets()) {
      const Properties figures = measurements.get(initiator.name, target.name);
      for (std::size_t i = 0; i < kPropertyCount; ++i) {
        const auto property = static_cast<Property>(i);
        if (const auto value = figures.get(property)) {
          fmt::print("{} -> {}: {} {}\n", initiator.name, target.name, name_of(property),
                     figure_text(property, *value));
        }
      }
    }
  }
}

Result<void> run(const Context& context, Options options) {
  if (!context.topology.empty()) {
    return fail(ErrorCode::kInvalidArgument, "only this machine can be measured: leave --topology out");
  }
  // Without earlier measurements: what they replace is what is asked for again.
  const auto topology = discover();
  if (!topology) return tl::unexpected(topology.error());
  const std::string path = Measurements::cache_file(*topology);
  if (path.empty()) {
    return fail(ErrorCode::kInvalidArgument, "there is no place to keep the figures: set XDG_CACHE_HOME or HOME");
  }
  if (options.forget) return forget(path);
  if (!options.memory.empty() && !parse_size(options.memory, &options.measure.bytes)) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is not a size: write a number of bytes, or with K, M, G or T", options.memory));
  }
  options.measure.time = std::chrono::milliseconds(options.milliseconds);
  const auto measurements = measure_machine(
      *topology, options.measure,
      [](const Initiator& i, const Target& t) { fmt::print(stderr, "measuring {} -> {}\n", i.name, t.name); },
      [](const Initiator& i, const Target& t, const Error& error) {
        fmt::print(stderr, "hms: {} -> {} left out: {}\n", i.name, t.name, error.message);
      });
  print(*topology, measurements);
  if (measurements.empty()) {
    fmt::print("nothing was measured: the firmware gives all figures, or see above; --all measures them too\n");
    return {};
  }
  if (auto saved = measurements.save(path); !saved) return saved;
  fmt::print("kept in {}\n", path);
  return {};
}

}  // namespace

void add_measure(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("measure", "measure bandwidths and latencies that the firmware does not give");
  command->add_flag("--all", options->measure.all, "also where the firmware gives figures (these stay in force)");
  command->add_option("--time", options->milliseconds, "for each figure, in ms")
      ->check(CLI::Range(1, 60000))
      ->capture_default_str();
  command->add_option("--memory", options->memory, "measure with a buffer of this size; default: 4 last-level caches")
      ->type_name("BYTES");
  command->add_flag("--forget", options->forget, "remove what was measured before, and measure nothing");
  command->callback([options, &context] {
    if (const auto done = run(context, *options); !done) complain(context, done.error());
  });
}

}  // namespace mirrorcl::hms::tool
