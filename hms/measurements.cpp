// SPDX-License-Identifier: Apache-2.0
#include "hms/measurements.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/options.h"

namespace mirrorcl::hms {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "mirrorcl-hms-measurements";

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

std::string machine_id() {
  std::ifstream file("/etc/machine-id");
  std::string id;
  std::getline(file, id);
  return id;
}

// What a measurement depends on: the machine, its processors, its memories.
std::string signature(const Topology& topology) {
  std::string text = machine_id();
  for (const char* key : {"DMIProductName", "CPUModel"}) {
    const auto found = topology.info.find(key);
    if (found != topology.info.end()) text += "|" + found->second;
  }
  for (const Initiator& initiator : topology.initiators()) {
    if (initiator.kind == InitiatorKind::kCpu) text += "|" + initiator.name;
  }
  for (const Target& target : topology.targets()) {
    if (target.is_host()) text += fmt::format("|{} {}", target.name, target.size);
  }
  return text;
}

tl::unexpected<Error> damaged(const std::string& path, const std::string& reason) {
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("{} is damaged ({}): delete it and run 'hms measure'", path, reason));
}

Result<void> read_entry(const Json& entry, const std::string& path, Measurements& result) {
  const auto text = [&](const char* key) {
    const auto found = entry.find(key);
    return found != entry.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  Properties figures;
  const auto values = entry.is_object() ? entry.find("figures") : entry.end();
  if (!entry.is_object() || text("initiator").empty() || text("target").empty() || values == entry.end() ||
      !values->is_object()) {
    return damaged(path, "an entry lacks initiator, target or figures");
  }
  for (const auto& [key, value] : values->items()) {
    const auto property = property_of(key);
    if (!property || !value.is_number_unsigned()) return damaged(path, fmt::format("no figure: {}", key));
    figures.set(*property, {value.get<std::uint64_t>(), Source::kMeasured});
  }
  result.add(text("initiator"), text("target"), figures);
  return {};
}

}  // namespace

Properties Measurements::get(std::string_view initiator, std::string_view target) const {
  const auto found = figures_.find(std::pair<std::string, std::string>(initiator, target));
  return found != figures_.end() ? found->second : Properties{};
}

void Measurements::add(const std::string& initiator, const std::string& target, const Properties& figures) {
  Properties& known = figures_[{initiator, target}];
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    const auto property = static_cast<Property>(i);
    if (const auto value = figures.get(property)) known.set(property, {value->number, Source::kMeasured});
  }
}

std::string Measurements::cache_file(const Topology& topology) {
  if (options().cache_dir.empty()) return {};
  return fmt::format("{}/hms/{:016x}.json", options().cache_dir, fnv1a(signature(topology)));
}

Result<Measurements> Measurements::load(const std::string& path) {
  Measurements result;
  std::ifstream file(path);
  if (!file) return result;
  std::stringstream text;
  text << file.rdbuf();
  const Json json = Json::parse(text.str(), nullptr, false);
  if (!json.is_object() || json.value("format", Json()) != Json(kFormat)) return damaged(path, "not such a file");
  const auto entries = json.find("measurements");
  if (entries == json.end() || !entries->is_array()) return damaged(path, "no measurements");
  for (const Json& entry : *entries) {
    if (auto read = read_entry(entry, path, result); !read) return tl::unexpected(read.error());
  }
  return result;
}

Result<void> Measurements::save(const std::string& path) const {
  Json json = Json::object();
  json["format"] = kFormat;
  json["measurements"] = Json::array();
  for (const auto& [pair, figures] : figures_) {
    Json entry = {{"initiator", pair.first}, {"target", pair.second}, {"figures", Json::object()}};
    for (std::size_t i = 0; i < kPropertyCount; ++i) {
      const auto property = static_cast<Property>(i);
      if (const auto value = figures.get(property)) entry["figures"][std::string(name_of(property))] = value->number;
    }
    json["measurements"].push_back(std::move(entry));
  }
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  const std::string temporary = fmt::format("{}.{}", path, getpid());
  std::ofstream file(temporary);
  file << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  file.close();
  if (!file) return fail_errno(fmt::format("write {}", temporary), errno);
  if (std::rename(temporary.c_str(), path.c_str()) != 0) return fail_errno(fmt::format("write {}", path), errno);
  return {};
}

}  // namespace mirrorcl::hms
