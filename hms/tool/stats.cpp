// SPDX-License-Identifier: Apache-2.0
// hms stats: what the mirror of a live process has done.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "hms/live_view.h"
#include "hms/render.h"
#include "hms/tool/command.h"

namespace mirrorcl::hms::tool {
namespace {

struct Options {
  pid_t pid = 0;
  bool watch = false;
  bool json = false;
  bool histograms = false;
  double interval = 1;      // seconds
  std::uint64_t times = 0;  // 0: until the process ends
};

std::string value_text(std::uint64_t value, const std::string& unit) {
  if (unit == "ns") return time_text(value);
  if (unit == "bytes") return bytes_text(value);
  return fmt::format("{}", value);
}

// Not the numbers of devices that there are not: "device2_faults".
bool is_told(const LiveState& state, const std::string& name) {
  constexpr std::string_view kOfDevice = "device";
  if (!name.starts_with(kOfDevice) || name.size() <= kOfDevice.size()) return true;
  const char digit = name[kOfDevice.size()];
  if (digit < '0' || digit > '9') return true;
  return std::ranges::any_of(state.devices, [&](const LiveDevice& device) {
    return name.starts_with(fmt::format("{}{}_", kOfDevice, device.index));
  });
}

std::string counter_text(const std::string& name, std::uint64_t value) {
  return name.starts_with("bytes") ? bytes_text(value) : fmt::format("{}", value);
}

// "below 8 KiB  ######   1234"
std::string bars_of(const LiveHistogram& histogram) {
  constexpr std::uint64_t kWidth = 40;
  const std::uint64_t highest = histogram.buckets.empty() ? 0 : std::ranges::max(histogram.buckets);
  std::string text;
  for (std::size_t i = 0; i < histogram.buckets.size(); ++i) {
    const std::uint64_t count = histogram.buckets[i];
    if (count == 0) continue;
    const auto bar =
        static_cast<std::size_t>(1 + static_cast<double>(count) / static_cast<double>(highest) * (kWidth - 1));
    const bool last = i + 1 == histogram.buckets.size();
    const std::string limit =
        last ? "more" : fmt::format("below {}", value_text(std::uint64_t{1} << i, histogram.unit));
    text += fmt::format("    {:<16} {:<40} {}\n", limit, std::string(bar, '#'), count);
  }
  return text;
}

std::string line_of(const LiveHistogram& histogram) {
  if (histogram.count == 0) return fmt::format("  {:<24} none\n", histogram.name);
  const auto value = [&](std::uint64_t number) { return value_text(number, histogram.unit); };
  return fmt::format("  {:<24} {} times, {} on average, half up to {}, 99 % up to {}, at most {}\n", histogram.name,
                     histogram.count, value(histogram.sum / histogram.count), value(histogram.quantile(0.5)),
                     value(histogram.quantile(0.99)), value(histogram.max));
}

std::string text_of(const LiveState& state, bool bars) {
  std::string text = fmt::format("process {} ({}), for {}\n", state.pid, state.command,
                                 time_text(state.read_ns - std::min(state.started_ns, state.read_ns)));
  for (const LiveDevice& device : state.devices) {
    text += fmt::format("  device {:<17} {} of memory\n", device.name, bytes_text(device.memory_size));
  }
  for (const auto& [name, value] : state.counters) {
    if (!is_told(state, name)) continue;
    text += fmt::format("  {:<24} {}\n", name, counter_text(name, value));
  }
  text += "times of service and sizes of migrations\n";
  for (const LiveHistogram& histogram : state.histograms) {
    text += line_of(histogram);
    if (bars) text += bars_of(histogram);
  }
  text +=
      fmt::format("  {:<24} {} made, the last {} kept\n", "decisions", state.decisions_made, state.decisions.size());
  return text;
}

std::string json_of(const LiveState& state, bool one_line) {
  using Json = nlohmann::ordered_json;
  Json json = {{"pid", state.pid},
               {"command", state.command},
               {"time_ns", state.read_ns},
               {"started_ns", state.started_ns},
               {"decisions", state.decisions_made}};
  json["devices"] = Json::array();
  for (const LiveDevice& device : state.devices) {
    json["devices"].push_back({{"name", device.name}, {"memory_size", device.memory_size}});
  }
  json["counters"] = Json::object();
  for (const auto& [name, value] : state.counters) json["counters"][name] = value;
  json["histograms"] = Json::object();
  for (const LiveHistogram& histogram : state.histograms) {
    json["histograms"][histogram.name] = {{"unit", histogram.unit},         {"count", histogram.count},
                                          {"sum", histogram.sum},           {"max", histogram.max},
                                          {"p50", histogram.quantile(0.5)}, {"p99", histogram.quantile(0.99)},
                                          {"buckets", histogram.buckets}};
  }
  return json.dump(one_line ? -1 : 2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// What has changed between two looks, each as a rate.
std::string change_text(const LiveState& before, const LiveState& now) {
  const double seconds = std::max(static_cast<double>(now.read_ns - before.read_ns) / 1e9, 1e-9);
  std::string text = fmt::format("{:>10}", time_text(now.read_ns - std::min(now.started_ns, now.read_ns)));
  bool any = false;
  for (std::size_t i = 0; i < std::min(before.counters.size(), now.counters.size()); ++i) {
    const auto& [name, value] = now.counters[i];
    const std::uint64_t more = value - std::min(before.counters[i].second, value);
    if (more == 0) continue;
    any = true;
    text += fmt::format("  {} {}/s", name,
                        counter_text(name, static_cast<std::uint64_t>(static_cast<double>(more) / seconds)));
  }
  return text + (any ? "\n" : "  nothing\n");
}

// Until the process ends, or as often as asked.
Result<void> watch(const LiveView& view, LiveState state, const Options& options) {
  for (std::uint64_t i = 1; options.times == 0 || i < options.times; ++i) {
    std::this_thread::sleep_for(std::chrono::duration<double>(options.interval));
    auto next = view.read();
    if (!next && view.process_has_ended()) {
      return options.json ? Result<void>{} : write_output(fmt::format("process {} has ended\n", options.pid), "");
    }
    if (!next) return tl::unexpected<Error>(next.error());
    const std::string text = options.json ? json_of(*next, true) : change_text(state, *next);
    if (auto written = write_output(text, ""); !written) return written;
    state = std::move(*next);
  }
  return {};
}

Result<void> show(const Options& options) {
  const auto view = LiveView::open(options.pid);
  if (!view) return tl::unexpected<Error>(view.error());
  auto state = view->read();
  if (!state) return tl::unexpected<Error>(state.error());
  const std::string text = options.json ? json_of(*state, options.watch) : text_of(*state, options.histograms);
  if (auto written = write_output(text, ""); !written || !options.watch) return written;
  return watch(*view, std::move(*state), options);
}

}  // namespace

void add_stats(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("stats", "what the mirror of a live process has done");
  command->add_option("pid", options->pid, "the process")->required();
  command->add_flag("--histograms", options->histograms, "the distribution of times and sizes too");
  command->add_flag("--json", options->json, "as JSON; with --watch, a line each time");
  CLI::Option* watch = command->add_flag("--watch", options->watch, "go on: what changes, until the process ends");
  command->add_option("--interval", options->interval, "seconds between two looks (1)")
      ->needs(watch)
      ->check(CLI::Range(0.01, 86'400.0));
  command->add_option("--times", options->times, "look so often, then end")->needs(watch);
  command->callback([options, &context] {
    if (const auto done = show(*options); !done) complain(context, done.error());
  });
}

}  // namespace mirrorcl::hms::tool
