// SPDX-License-Identifier: Apache-2.0
#include "hms/render.h"

#include <fmt/format.h>

#include <array>
#include <iterator>
#include <set>

#include "hms/query.h"

namespace mirrorcl::hms {
namespace {

std::string scaled(double number, std::span<const char* const> units, double step = 1024) {
  std::size_t unit = 0;
  while (number >= step && unit + 1 < units.size()) {
    number /= step;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} {}", number, units[0]) : fmt::format("{:.1f} {}", number, units[unit]);
}

std::string figures_text(const std::optional<Value>& bandwidth, const std::optional<Value>& latency) {
  const auto text = [](Property property, const std::optional<Value>& value) {
    return value ? fmt::format("{:>12} {:<10}", figure_text(property, *value), name_of(value->source))
                 : fmt::format("{:>12} {:<10}", "-", "unknown");
  };
  return text(Property::kBandwidth, bandwidth) + " " + text(Property::kLatency, latency);
}

class TextWriter {
 public:
  TextWriter(const Topology& topology, std::size_t most) : topology_(topology), most_(most) {
    for (const Target& target : topology.targets()) name_width_ = std::max(name_width_, target.name.size());
  }

  std::string write() {
    for (const auto& [key, value] : topology_.info) line("{}: {}", key, value);
    std::set<std::int32_t> packages;
    for (const Target& target : topology_.targets()) packages.insert(target.package);
    for (const Initiator& initiator : topology_.initiators()) packages.insert(initiator.package);
    for (const auto package : packages) {
      if (package >= 0) write_package(package, fmt::format("package {}", package));
    }
    if (packages.contains(-1)) write_package(-1, packages.size() == 1 ? "machine" : "outside packages");
    return std::move(text_);
  }

 private:
  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
    text_ += '\n';
  }

  void write_package(std::int32_t package, const std::string& title) {
    line("{}", title);
    for (const Target& target : topology_.targets()) {
      if (target.package == package) write_target(target);
    }
    for (const Initiator& initiator : topology_.initiators()) {
      if (initiator.package == package) write_initiator(initiator);
    }
  }

  void write_target(const Target& target) {
    std::string notes;
    if (target.free) notes += fmt::format(", {} free", bytes_text(*target.free));
    if (target.tier >= 0) notes += fmt::format(", tier {}", target.tier);
    if (!target.online) notes += ", offline";
    if (!target.device.empty()) notes += fmt::format(", of {}", target.device);
    if (!target.known()) notes += fmt::format(", not used: version {}", target.version);
    for (const MemorySideCache& cache : target.caches)
      notes += fmt::format(", behind a cache of {}", bytes_text(cache.size));
    line("  memory {:<{}} uid {:<4} {:<6} {}{}", target.name, name_width_, target.uid, name_of(target.kind),
         bytes_text(target.size), notes);
  }

  void write_initiator(const Initiator& initiator) {
    const char* relation = initiator.kind == InitiatorKind::kCpu ? "CPUs" : "near CPUs";
    const std::string cpus = initiator.cpus.empty() ? "" : fmt::format(", {} {}", relation, initiator.cpus.to_string());
    line("  {} {} uid {}{}", name_of(initiator.kind), initiator.name, initiator.uid, cpus);
    const auto best = best_targets(topology_, Query{.initiators = {initiator.uid}});
    if (!best) return;
    std::size_t written = 0;
    for (const Candidate& candidate : *best) {
      if (written++ == most_) {
        line("    ... and {} more; see 'hms best {}'", best->size() - most_, initiator.name);
        return;
      }
      const Target& target = *topology_.target(candidate.target);
      line("    -> {:<{}} {} {}{}", target.name, name_width_, figures_text(candidate.bandwidth, candidate.latency),
           name_of(candidate.locality), candidate.coherent ? "" : ", not coherent");
    }
  }

  const Topology& topology_;
  std::size_t most_;
  std::size_t name_width_ = 1;
  std::string text_;
};

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (c == '\n') {
      result += "\\n";
    } else {
      result += c;
    }
  }
  return result + '"';
}

// Figures of a link or bridge, a line each.
template <typename Hop>
std::string hop_label(const Hop& hop) {
  std::string label;
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    const auto property = static_cast<Property>(i);
    const auto value = hop.properties.get(property);
    if (!value) continue;
    const bool plain = property == Property::kBandwidth || property == Property::kLatency;
    label += fmt::format("{}{}{}{}", label.empty() ? "" : "\\n", plain ? "" : fmt::format("{} ", name_of(property)),
                         figure_text(property, *value), value->source == Source::kAssumed ? " (assumed)" : "");
  }
  if (!hop.coherent) label += "\\nnot coherent";
  return label;
}

const char* color_of(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kDram:
      return "#cfe2f3";
    case MemoryKind::kHbm:
      return "#f9cb9c";
    case MemoryKind::kNvm:
      return "#d9d2e9";
    case MemoryKind::kCxl:
      return "#d9ead3";
    case MemoryKind::kSpm:
      return "#fff2cc";
    case MemoryKind::kDevice:
      return "#f4cccc";
    case MemoryKind::kOther:
      break;
  }
  return "#eeeeee";
}

}  // namespace

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array<const char*, 7> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  return scaled(static_cast<double>(bytes), kUnits);
}

std::string time_text(std::uint64_t ns) {
  constexpr std::array<const char*, 4> kUnits = {"ns", "us", "ms", "s"};
  return scaled(static_cast<double>(ns), kUnits, 1000);
}

std::string bandwidth_text(std::uint64_t mib_per_s_) {
  constexpr std::array<const char*, 3> kUnits = {"MiB/s", "GiB/s", "TiB/s"};
  return scaled(static_cast<double>(mib_per_s_), kUnits);
}

std::string figure_text(Property property, Value value) {
  return unit_of(property) == "MiB/s" ? bandwidth_text(value.number)
                                      : fmt::format("{} {}", value.number, unit_of(property));
}

std::string to_text(const Topology& topology, std::size_t most) {
  return TextWriter(topology, most).write();
}

std::string to_dot(const Topology& topology) {
  std::string dot = "digraph topology {\n  rankdir=TB;\n  node [fontname=\"sans-serif\", fontsize=10];\n";
  dot += "  edge [fontname=\"sans-serif\", fontsize=9];\n";
  const auto out = std::back_inserter(dot);
  for (const Target& target : topology.targets()) {
    fmt::format_to(out, "  o{} [shape=box, style=\"filled{}\", fillcolor=\"{}\", label={}];\n", target.uid,
                   target.online ? "" : ",dashed", color_of(target.kind),
                   quoted(fmt::format("{}\n{} {}", target.name, name_of(target.kind), bytes_text(target.size))));
  }
  for (const Initiator& initiator : topology.initiators()) {
    fmt::format_to(out, "  o{} [shape=ellipse, label={}];\n", initiator.uid, quoted(initiator.name));
  }
  for (const Link& link : topology.links()) {
    // The label is made of numbers and names of this library; it holds graphviz's own line breaks.
    fmt::format_to(out, "  o{} [shape=plaintext, tooltip={}, label=\"{}\"];\n", link.uid, quoted(link.name),
                   hop_label(link).empty() ? "link" : hop_label(link));
    for (const Uid target : link.targets) fmt::format_to(out, "  o{} -> o{} [dir=none];\n", target, link.uid);
    for (const Uid initiator : link.initiators) fmt::format_to(out, "  o{} -> o{} [dir=none];\n", link.uid, initiator);
  }
  for (const Bridge& bridge : topology.bridges()) {
    fmt::format_to(out, "  o{} -> o{} [style=dashed, constraint=false{}, tooltip={}, label=\"{}\"];\n", bridge.from,
                   bridge.to, bridge.both_ways ? ", dir=both" : "", quoted(bridge.name), hop_label(bridge));
  }
  return dot + "}\n";
}

}  // namespace mirrorcl::hms
