// SPDX-License-Identifier: Apache-2.0
// hms best: which memory is best for a set of initiators.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/options.h"
#include "hms/query.h"
#include "hms/render.h"
#include "hms/tool/command.h"

namespace mirrorcl::hms::tool {
namespace {

struct Options {
  std::vector<std::string> initiators;
  std::string by = "bandwidth";
  std::string size;
  bool read = false, write = false, json = false;
  Query query;
};

Result<Query> query_of(const Topology& topology, const Options& options) {
  Query query = options.query;
  query.rank = *rank_of(options.by);  // CLI11 has checked it
  if (options.read) query.direction = Direction::kRead;
  if (options.write) query.direction = Direction::kWrite;
  if (!options.size.empty() && !parse_size(options.size, &query.min_free)) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is not a size: write a number of bytes, or with K, M, G or T", options.size));
  }
  for (const auto& text : options.initiators) {
    const auto uid = initiator_named(topology, text);
    if (!uid) return tl::unexpected(uid.error());
    query.initiators.push_back(*uid);
  }
  if (!query.initiators.empty()) return query;
  for (const Initiator& initiator : topology.initiators()) {
    if (initiator.kind == InitiatorKind::kCpu && initiator.known()) query.initiators.push_back(initiator.uid);
  }
  if (query.initiators.empty()) return fail(ErrorCode::kInvalidArgument, "the topology has no CPUs: name an initiator");
  return query;
}

nlohmann::ordered_json to_json(const std::optional<Value>& value) {
  if (!value) return nullptr;
  return {{"value", value->number}, {"source", name_of(value->source)}};
}

std::string json_of(const Topology& topology, const std::vector<Candidate>& best) {
  auto list = nlohmann::ordered_json::array();
  for (const Candidate& candidate : best) {
    const Target& target = *topology.target(candidate.target);
    nlohmann::ordered_json entry = {{"uid", target.uid},
                                    {"name", target.name},
                                    {"bandwidth", to_json(candidate.bandwidth)},
                                    {"latency", to_json(candidate.latency)},
                                    {"locality", name_of(candidate.locality)},
                                    {"coherent", candidate.coherent},
                                    {"atomic", candidate.atomic},
                                    {"bridges", candidate.bridges},
                                    {"size", target.size}};
    entry["free"] = target.free ? nlohmann::ordered_json(*target.free) : nlohmann::ordered_json(nullptr);
    list.push_back(std::move(entry));
  }
  return list.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string text_of(const Topology& topology, const std::vector<Candidate>& best) {
  std::size_t width = 6;
  for (const Candidate& candidate : best) width = std::max(width, topology.target(candidate.target)->name.size());
  std::string text = fmt::format("{:<{}} {:>5} {:>11} {:<10} {:>9} {:<10} {:>10} {:>10}  {}\n", "memory", width, "uid",
                                 "bandwidth", "", "latency", "", "size", "free", "locality");
  const auto figure = [](Property property, const std::optional<Value>& value, std::size_t columns) {
    return value ? fmt::format("{:>{}} {:<10}", figure_text(property, *value), columns, name_of(value->source))
                 : fmt::format("{:>{}} {:<10}", "-", columns, "unknown");
  };
  for (const Candidate& candidate : best) {
    const Target& target = *topology.target(candidate.target);
    text += fmt::format("{:<{}} {:>5} {} {} {:>10} {:>10}  {}{}{}\n", target.name, width, target.uid,
                        figure(Property::kBandwidth, candidate.bandwidth, 11),
                        figure(Property::kLatency, candidate.latency, 9), bytes_text(target.size),
                        target.free ? bytes_text(*target.free) : "-", name_of(candidate.locality),
                        target.online ? "" : ", offline", candidate.coherent ? "" : ", not coherent");
  }
  return text;
}

Result<void> run(const Topology& topology, const Options& options) {
  const auto query = query_of(topology, options);
  if (!query) return tl::unexpected(query.error());
  const auto best = best_targets(topology, *query);
  if (!best) return tl::unexpected(best.error());
  if (options.json) return write_output(json_of(topology, *best), "");
  if (best->empty()) {
    return fail(
        ErrorCode::kInvalidArgument,
        "no memory can be reached by all of these initiators under these conditions; 'hms show' lists what each "
        "of them reaches");
  }
  return write_output(text_of(topology, *best), "");
}

}  // namespace

void add_best(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("best", "the best memories for one or several initiators, best first");
  command->add_option("initiators", options->initiators,
                      "who accesses it: names or uids of 'hms show', cpu:NUMBER, devices; default: all CPUs");
  command->add_option("--by", options->by, "what is better")
      ->check(CLI::IsMember({"bandwidth", "latency", "capacity", "free"}))
      ->capture_default_str();
  auto* read = command->add_flag("--read", options->read, "judge by reads only");
  command->add_flag("--write", options->write, "judge by writes only")->excludes(read);
  command->add_option("--size", options->size, "only where so much is free, say 4G")->type_name("BYTES");
  command->add_flag("--coherent", options->query.coherent, "only what is reached coherently");
  command->add_flag("--atomic", options->query.atomic, "only where atomic operations work");
  command->add_flag("--offline", options->query.include_offline, "also memory in which nothing can be allocated now");
  command->add_option("-n", options->query.limit, "at most so many");
  command->add_flag("--json", options->json, "as JSON; an empty list if there is none");
  command->callback([options, &context] {
    const auto topology = load_topology(context);
    if (!topology) return;
    if (const auto done = run(*topology, *options); !done) complain(context, done.error());
  });
}

}  // namespace mirrorcl::hms::tool
