// SPDX-License-Identifier: Apache-2.0
#include "hms/json_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

namespace mirrorcl::hms {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "mirrorcl-hms";
constexpr std::uint64_t kFormatVersion = 1;

// ---- writing: what is at its default is left out

void put_object(Json& json, const Object& object) {
  json["uid"] = object.uid;
  if (object.version != 0) json["version"] = object.version;
  json["name"] = object.name;
  if (!object.parent.empty()) json["parent"] = object.parent;
}

void put_number(Json& json, const char* key, std::int32_t number) {
  if (number >= 0) json[key] = number;
}

void put_text(Json& json, const char* key, const std::string& text) {
  if (!text.empty()) json[key] = text;
}

// "0-1023" where the kernel's notation can say it: a link of 1,024 initiators stays one line.
Json members_json(const std::vector<Uid>& members) {
  IdSet set;
  for (const Uid member : members) {
    if (member > IdSet::kMax) return Json(members);
    set.add(member);
  }
  return Json(set.to_string());
}

void put_figures(Json& json, const Properties& properties, bool coherent, bool atomic) {
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    const auto property = static_cast<Property>(i);
    const auto value = properties.get(property);
    if (!value) continue;
    Json& figure = json[std::string(name_of(property))];
    if (value->source == Source::kConfigured) {
      figure = value->number;
    } else {
      figure["value"] = value->number;
      figure["source"] = name_of(value->source);
    }
  }
  if (!coherent) json["coherent"] = false;
  if (!atomic) json["atomic"] = false;
}

Json to_json(const Target& target) {
  Json json = Json::object();
  put_object(json, target);
  json["kind"] = name_of(target.kind);
  put_number(json, "node", target.node);
  put_number(json, "package", target.package);
  put_number(json, "tier", target.tier);
  json["size"] = target.size;
  if (target.free) json["free"] = *target.free;
  if (!target.online) json["online"] = false;
  put_text(json, "cpus", target.cpus.to_string());
  put_text(json, "device", target.device);
  for (const MemorySideCache& cache : target.caches) {
    Json entry = Json::object();
    entry["size"] = cache.size;
    if (cache.line_size != 0) entry["line_size"] = cache.line_size;
    put_number(entry, "indexing", cache.indexing);
    put_number(entry, "write_policy", cache.write_policy);
    json["caches"].push_back(std::move(entry));
  }
  return json;
}

Json to_json(const Initiator& initiator) {
  Json json = Json::object();
  put_object(json, initiator);
  json["kind"] = name_of(initiator.kind);
  put_number(json, "node", initiator.node);
  put_number(json, "package", initiator.package);
  put_text(json, "cpus", initiator.cpus.to_string());
  put_text(json, "device", initiator.device);
  return json;
}

Json to_json(const Link& link) {
  Json json = Json::object();
  put_object(json, link);
  json["initiators"] = members_json(link.initiators);
  json["targets"] = members_json(link.targets);
  put_figures(json, link.properties, link.coherent, link.atomic);
  if (link.merged) json["merged"] = true;
  return json;
}

Json to_json(const Bridge& bridge) {
  Json json = Json::object();
  put_object(json, bridge);
  json["from"] = bridge.from;
  json["to"] = bridge.to;
  if (bridge.both_ways) json["both_ways"] = true;
  json["initiators"] = members_json(bridge.initiators);
  put_figures(json, bridge.properties, bridge.coherent, bridge.atomic);
  return json;
}

// ---- reading

// Thrown inside this file only; from_json() makes an Error of it.
struct Malformed {
  std::string message;
};

// One JSON object whose keys are taken one after the other; what is left at the end is refused.
class Fields {
 public:
  Fields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) refuse("should be an object { ... }");
  }

  [[noreturn]] void refuse(const std::string& reason) const { throw Malformed{where_ + ": " + reason}; }
  [[noreturn]] void refuse(std::string_view key, std::string_view reason) const {
    throw Malformed{fmt::format("{}: '{}' {}", where_, key, reason)};
  }

  const Json* take(const std::string& key) {
    taken_.insert(key);
    const auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }

  const Json& need(const std::string& key) {
    const Json* value = take(key);
    if (value == nullptr) refuse(key, "is missing");
    return *value;
  }

  std::uint64_t number_of(const Json& value, std::string_view key, std::uint64_t most) const {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > most) {
      refuse(key, fmt::format("should be a whole number from 0 to {}", most));
    }
    return value.get<std::uint64_t>();
  }

  template <typename T>
  void read_number(const char* key, T& number, std::uint64_t most = std::numeric_limits<T>::max()) {
    if (const Json* value = take(key)) number = static_cast<T>(number_of(*value, key, most));
  }

  void read_text(const std::string& key, std::string& text) {
    const Json* value = take(key);
    if (value == nullptr) return;
    if (!value->is_string()) refuse(key, "should be a string");
    text = value->get<std::string>();
  }

  void read_flag(const char* key, bool& flag) {
    const Json* value = take(key);
    if (value == nullptr) return;
    if (!value->is_boolean()) refuse(key, "should be true or false");
    flag = value->get<bool>();
  }

  void read_ids(const char* key, IdSet& ids) {
    std::string text;
    read_text(key, text);
    const auto parsed = IdSet::parse(text);
    if (!parsed) refuse(key, "should be a list of numbers like \"0-3,8\"");
    ids = *parsed;
  }

  template <typename Enum>
  void read_name(const char* key, Enum& value, std::optional<Enum> (*parse)(std::string_view)) {
    std::string text;
    if (json_.find(key) == json_.end()) return;
    read_text(key, text);
    const auto parsed = parse(text);
    if (!parsed) refuse(key, fmt::format("has the unknown value '{}'", text));
    value = *parsed;
  }

  void refuse_the_rest() const {
    for (const auto& [key, value] : json_.items()) {
      if (!taken_.contains(key)) refuse(key, "is not a key of this object");
    }
  }

 private:
  const Json& json_;
  std::string where_;
  std::set<std::string, std::less<>> taken_;
};

void read_object(Fields& fields, Object& object) {
  fields.read_number("uid", object.uid, kNoUid - 1);
  fields.read_number("version", object.version);
  fields.read_text("name", object.name);
  fields.read_text("parent", object.parent);
}

constexpr auto kMostId = std::uint64_t{IdSet::kMax};

void read(Fields& fields, Target& target) {
  fields.read_name("kind", target.kind, &memory_kind_of);
  fields.read_number("node", target.node, kMostId);
  fields.read_number("package", target.package, kMostId);
  fields.read_number("tier", target.tier, kMostId);
  target.size = fields.number_of(fields.need("size"), "size", std::numeric_limits<std::uint64_t>::max());
  if (const Json* free = fields.take("free")) {
    target.free = fields.number_of(*free, "free", std::numeric_limits<std::uint64_t>::max());
  }
  fields.read_flag("online", target.online);
  fields.read_ids("cpus", target.cpus);
  fields.read_text("device", target.device);
  const Json* caches = fields.take("caches");
  if (caches == nullptr) return;
  if (!caches->is_array()) fields.refuse("caches", "should be a list [ ... ]");
  for (const Json& json : *caches) {
    Fields entry(json, fmt::format("a cache of '{}'", target.name));
    MemorySideCache cache;
    cache.size = entry.number_of(entry.need("size"), "size", std::numeric_limits<std::uint64_t>::max());
    entry.read_number("line_size", cache.line_size);
    entry.read_number("indexing", cache.indexing);
    entry.read_number("write_policy", cache.write_policy);
    entry.refuse_the_rest();
    target.caches.push_back(cache);
  }
}

void read(Fields& fields, Initiator& initiator) {
  fields.read_name("kind", initiator.kind, &initiator_kind_of);
  fields.read_number("node", initiator.node, kMostId);
  fields.read_number("package", initiator.package, kMostId);
  fields.read_ids("cpus", initiator.cpus);
  fields.read_text("device", initiator.device);
}

Uid member_of(const Fields& fields, std::string_view key, const Json& value, const Topology& topology) {
  if (value.is_number_unsigned()) return static_cast<Uid>(fields.number_of(value, key, kNoUid - 1));
  if (!value.is_string()) fields.refuse(key, "should refer to objects by uid or name");
  const auto name = value.get<std::string>();
  const Object* object = topology.find(name);
  if (object == nullptr) fields.refuse(key, fmt::format("refers to '{}', which does not exist", name));
  return object->uid;
}

// "0-3,8" (uids), or a list of uids and names.
void read_members(Fields& fields, const char* key, std::vector<Uid>& members, const Topology& topology) {
  const Json* value = fields.take(key);
  if (value == nullptr) return;
  if (value->is_string()) {
    IdSet ids;
    fields.read_ids(key, ids);
    members = ids.members();
    return;
  }
  if (!value->is_array()) fields.refuse(key, "should be a list of uids and names, or a string like \"0-3,8\" of uids");
  for (const Json& member : *value) members.push_back(member_of(fields, key, member, topology));
}

Value read_value(const Fields& fields, const std::string& key, const Json& json) {
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  if (!json.is_object()) return {fields.number_of(json, key, kMost), Source::kConfigured};
  Fields figure(json, fmt::format("figure '{}'", key));
  Value value{figure.number_of(figure.need("value"), "value", kMost), Source::kConfigured};
  figure.read_name("source", value.source, &source_of);
  figure.refuse_the_rest();
  return value;
}

template <typename Hop>
void read_figures(Fields& fields, Hop& hop) {
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    const auto property = static_cast<Property>(i);
    const std::string key(name_of(property));
    if (const Json* json = fields.take(key)) hop.properties.set(property, read_value(fields, key, *json));
  }
  fields.read_flag("coherent", hop.coherent);
  fields.read_flag("atomic", hop.atomic);
}

void read(Fields& fields, Link& link, const Topology& topology) {
  read_members(fields, "initiators", link.initiators, topology);
  read_members(fields, "targets", link.targets, topology);
  read_figures(fields, link);
  fields.read_flag("merged", link.merged);
}

void read(Fields& fields, Bridge& bridge, const Topology& topology) {
  bridge.from = member_of(fields, "from", fields.need("from"), topology);
  bridge.to = member_of(fields, "to", fields.need("to"), topology);
  fields.read_flag("both_ways", bridge.both_ways);
  read_members(fields, "initiators", bridge.initiators, topology);
  read_figures(fields, bridge);
}

template <typename T>
void read_all(Fields& file, const char* key, Topology& topology) {
  const Json* list = file.take(key);
  if (list == nullptr) return;
  if (!list->is_array()) file.refuse(key, "should be a list [ ... ]");
  std::size_t number = 0;
  for (const Json& json : *list) {
    Fields fields(json, fmt::format("{}[{}]", key, number++));
    T object;
    read_object(fields, object);
    if constexpr (std::is_same_v<T, Link> || std::is_same_v<T, Bridge>) {
      read(fields, object, topology);
    } else {
      read(fields, object);
    }
    fields.refuse_the_rest();
    if (auto added = topology.add(std::move(object)); !added) fields.refuse(added.error().message);
  }
}

Topology read_file(const Json& json) {
  Fields file(json, "the file");
  std::string format;
  file.read_text("format", format);
  if (format != kFormat) file.refuse(fmt::format("is not a topology: its \"format\" should be \"{}\"", kFormat));
  const auto version = file.number_of(file.need("version"), "version", std::numeric_limits<std::uint64_t>::max());
  if (version != kFormatVersion) {
    file.refuse(fmt::format("has version {} of the format; this program reads version {}", version, kFormatVersion));
  }
  Topology topology;
  if (const Json* info = file.take("info")) {
    if (!info->is_object()) file.refuse("info", "should be an object { ... }");
    Fields entries(*info, "info");
    for (const auto& [key, value] : info->items()) entries.read_text(key, topology.info[key]);
  }
  read_all<Target>(file, "targets", topology);
  read_all<Initiator>(file, "initiators", topology);
  read_all<Link>(file, "links", topology);
  read_all<Bridge>(file, "bridges", topology);
  Uid next = 0;
  file.read_number("next_uid", next);
  topology.reserve_uids(next);
  file.refuse_the_rest();
  return topology;
}

template <typename Objects>
Json list_of(const Objects& objects) {
  Json list = Json::array();
  for (const auto& object : objects) list.push_back(to_json(object));
  return list;
}

}  // namespace

std::string to_json(const Topology& topology) {
  Json json = Json::object();
  json["format"] = kFormat;
  json["version"] = kFormatVersion;
  json["info"] = Json::object();
  for (const auto& [key, value] : topology.info) json["info"][key] = value;
  json["targets"] = list_of(topology.targets());
  json["initiators"] = list_of(topology.initiators());
  json["links"] = list_of(topology.links());
  json["bridges"] = list_of(topology.bridges());
  json["next_uid"] = topology.next_uid();
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Topology> from_json(std::string_view text) {
  try {
    return read_file(Json::parse(text));
  } catch (const Malformed& malformed) {
    return fail(ErrorCode::kInvalidArgument, malformed.message);
  } catch (const Json::exception& error) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("not JSON: {}", error.what()));
  }
}

}  // namespace mirrorcl::hms
