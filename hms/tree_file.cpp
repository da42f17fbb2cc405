// SPDX-License-Identifier: Apache-2.0
#include "hms/tree_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

namespace mirrorcl::hms {
namespace {

namespace fs = std::filesystem;

// Thrown inside this file only; the two entry points make an Error of it.
struct Failed {
  Error error;
};

[[noreturn]] void refuse(const std::string& message) {
  throw Failed{{ErrorCode::kInvalidArgument, message}};
}
[[noreturn]] void system_failure(const std::string& what, int error_number) {
  throw Failed{fail_errno(what, error_number).value()};
}

// ---- writing

class Writer {
 public:
  Writer(const Topology& topology, fs::path root) : topology_(topology), root_(std::move(root)) {}

  void write() {
    make_folder(root_);
    for (const Target& target : topology_.targets()) write_target(target);
    for (const Initiator& initiator : topology_.initiators()) write_initiator(initiator);
    for (const Link& link : topology_.links()) write_link(link);
    for (const Bridge& bridge : topology_.bridges()) write_bridge(bridge);
    make_folder(root_ / "info");
    std::size_t number = 0;
    for (const auto& [key, value] : topology_.info) {
      put(root_ / "info" / fmt::format("{}.key", number), key);
      put(root_ / "info" / fmt::format("{}.value", number++), value);
    }
    put(root_ / "next_uid", topology_.next_uid());
  }

 private:
  static void make_folder(const fs::path& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) system_failure(fmt::format("cannot make {}", folder.string()), error.value());
  }

  template <typename T>
  static void put(const fs::path& path, const T& value) {
    std::ofstream file(path);
    file << fmt::format("{}\n", value);
    file.close();
    if (!file) system_failure(fmt::format("cannot write {}", path.string()), errno);
  }

  // Beside the one it points from: ../v0-3-target
  void point_to(const fs::path& folder, Uid uid) const {
    const std::string name = entry_name(*topology_.object(uid), *topology_.type_of(uid));
    symlink_to(fs::path("..") / name, folder / name);
  }

  static void symlink_to(const fs::path& to, const fs::path& path) {
    std::error_code error;
    fs::create_symlink(to, path, error);
    if (error) system_failure(fmt::format("cannot write {}", path.string()), error.value());
  }

  fs::path write_object(const Object& object, ObjectType type) const {
    fs::path folder = root_ / entry_name(object, type);
    make_folder(folder);
    put(folder / "uid", object.uid);
    put(folder / "name", object.name);
    if (object.parent.empty()) return folder;
    put(folder / "parent", object.parent);
    // As sysfs would: the parent under its own name.
    if (object.parent.starts_with("node"))
      symlink_to("/sys/devices/system/node/" + object.parent, folder / object.parent);
    if (object.parent.starts_with("cpu"))
      symlink_to("/sys/devices/system/cpu/" + object.parent, folder / object.parent);
    return folder;
  }

  static void put_number(const fs::path& path, std::int32_t number) {
    if (number >= 0) put(path, number);
  }

  void write_target(const Target& target) const {
    const fs::path folder = write_object(target, ObjectType::kTarget);
    put(folder / "kind", name_of(target.kind));
    put(folder / "nid", target.node);
    put_number(folder / "package", target.package);
    put_number(folder / "tier", target.tier);
    put(folder / "size", target.size);
    if (target.free) put(folder / "free", *target.free);
    put(folder / "online", target.online ? 1 : 0);
    put(folder / "cpulist", target.cpus.to_string());
    if (!target.device.empty()) put(folder / "device", target.device);
    for (std::size_t i = 0; i < target.caches.size(); ++i) {
      const MemorySideCache& cache = target.caches[i];
      const fs::path index = folder / fmt::format("memory_side_cache{}", i + 1);
      make_folder(index);
      put(index / "size", cache.size);
      put(index / "line_size", cache.line_size);
      put_number(index / "indexing", cache.indexing);
      put_number(index / "write_policy", cache.write_policy);
    }
    for (const Link& link : topology_.links()) {
      if (std::binary_search(link.targets.begin(), link.targets.end(), target.uid)) point_to(folder, link.uid);
    }
  }

  void write_initiator(const Initiator& initiator) const {
    const fs::path folder = write_object(initiator, ObjectType::kInitiator);
    put(folder / "kind", name_of(initiator.kind));
    put_number(folder / "nid", initiator.node);
    put_number(folder / "package", initiator.package);
    put(folder / "cpulist", initiator.cpus.to_string());
    if (!initiator.device.empty()) put(folder / "device", initiator.device);
    const auto point_from = [&](const auto& objects) {
      for (const auto& object : objects) {
        const auto& members = object.initiators;
        if (std::binary_search(members.begin(), members.end(), initiator.uid)) point_to(folder, object.uid);
      }
    };
    point_from(topology_.links());
    point_from(topology_.bridges());
  }

  template <typename Hop>
  static void write_figures(const fs::path& folder, const Hop& hop) {
    for (std::size_t i = 0; i < kPropertyCount; ++i) {
      const auto property = static_cast<Property>(i);
      const auto value = hop.properties.get(property);
      if (!value) continue;
      put(folder / name_of(property), value->number);
      put(folder / fmt::format("{}_source", name_of(property)), name_of(value->source));
    }
    put(folder / "coherent", hop.coherent ? 1 : 0);
    put(folder / "atomic", hop.atomic ? 1 : 0);
  }

  void write_link(const Link& link) const {
    const fs::path folder = write_object(link, ObjectType::kLink);
    write_figures(folder, link);
    if (link.merged) put(folder / "merged", 1);
    for (const Uid uid : link.initiators) point_to(folder, uid);
    for (const Uid uid : link.targets) point_to(folder, uid);
  }

  void write_bridge(const Bridge& bridge) const {
    const fs::path folder = write_object(bridge, ObjectType::kBridge);
    write_figures(folder, bridge);
    put(folder / "from", bridge.from);
    put(folder / "to", bridge.to);
    put(folder / "both_ways", bridge.both_ways ? 1 : 0);
    point_to(folder, bridge.from);
    point_to(folder, bridge.to);
    for (const Uid uid : bridge.initiators) point_to(folder, uid);
  }

  const Topology& topology_;
  fs::path root_;
};

// ---- reading

struct EntryName {
  std::uint32_t version;
  Uid uid;
  ObjectType type;
};

// "v0-3-target"
std::optional<EntryName> parse_entry(const std::string& name) {
  constexpr std::string_view kTypes[] = {"target", "initiator", "link", "bridge"};
  EntryName entry{};
  const char* end = name.data() + name.size();
  if (name.empty() || name.front() != 'v') return std::nullopt;
  auto [at, error] = std::from_chars(name.data() + 1, end, entry.version);
  if (error != std::errc{} || at == end || *at != '-') return std::nullopt;
  auto [after, uid_error] = std::from_chars(at + 1, end, entry.uid);
  if (uid_error != std::errc{} || after == end || *after != '-' || entry.uid == kNoUid) return std::nullopt;
  const std::string_view type(after + 1, static_cast<std::size_t>(end - after - 1));
  for (std::size_t i = 0; i < std::size(kTypes); ++i) {
    entry.type = static_cast<ObjectType>(i);
    if (type == kTypes[i]) return entry;
  }
  return std::nullopt;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) system_failure(fmt::format("cannot read {}", folder.string()), error.value());
  return names;
}

class Folder {
 public:
  explicit Folder(fs::path path) : path_(std::move(path)) {}

  const fs::path& path() const { return path_; }

  std::optional<std::string> text(const char* name) const {
    std::ifstream file(path_ / name);
    if (!file) return std::nullopt;
    std::string value((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (value.ends_with('\n')) value.pop_back();
    return value;
  }

  template <typename T>
  std::optional<T> number(const char* name) const {
    const auto value = text(name);
    if (!value) return std::nullopt;
    T result{};
    const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), result);
    if (error != std::errc{} || end != value->data() + value->size()) refuse_file(name, *value);
    return result;
  }

  template <typename T>
  T need(const char* name) const {
    const auto value = number<T>(name);
    if (!value) refuse(fmt::format("{} is missing", (path_ / name).string()));
    return *value;
  }

  bool flag(const char* name, bool otherwise) const { return number<unsigned>(name).value_or(otherwise ? 1 : 0) != 0; }

  IdSet ids(const char* name) const {
    const std::string value = text(name).value_or("");
    const auto set = IdSet::parse(value);
    if (!set) refuse_file(name, value);
    return *set;
  }

  template <typename Enum>
  Enum named(const char* name, Enum otherwise, std::optional<Enum> (*parse)(std::string_view)) const {
    const auto value = text(name);
    if (!value) return otherwise;
    const auto parsed = parse(*value);
    if (!parsed) refuse_file(name, *value);
    return *parsed;
  }

  // Uids of the entries of one type that this folder points to.
  std::vector<Uid> members(ObjectType type) const {
    std::vector<Uid> uids;
    for (const auto& name : names_in(path_)) {
      if (const auto entry = parse_entry(name); entry && entry->type == type) uids.push_back(entry->uid);
    }
    return uids;
  }

 private:
  [[noreturn]] void refuse_file(const char* name, const std::string& value) const {
    refuse(fmt::format("{} holds '{}', which it should not", (path_ / name).string(), value));
  }

  fs::path path_;
};

void read_object(const Folder& folder, const EntryName& entry, Object& object) {
  object.uid = entry.uid;
  object.version = entry.version;
  object.name = folder.text("name").value_or("");
  object.parent = folder.text("parent").value_or("");
  if (folder.need<Uid>("uid") != entry.uid)
    refuse(fmt::format("{}: 'uid' is not that of its name", folder.path().string()));
}

template <typename Hop>
void read_figures(const Folder& folder, Hop& hop) {
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    const auto property = static_cast<Property>(i);
    const std::string name(name_of(property));
    const auto number = folder.number<std::uint64_t>(name.c_str());
    if (!number) continue;
    const Source source = folder.named((name + "_source").c_str(), Source::kConfigured, &source_of);
    hop.properties.set(property, {*number, source});
  }
  hop.coherent = folder.flag("coherent", true);
  hop.atomic = folder.flag("atomic", true);
}

Target read_target(const Folder& folder) {
  Target target;
  target.kind = folder.named("kind", MemoryKind::kDram, &memory_kind_of);
  target.node = folder.number<std::int32_t>("nid").value_or(-1);
  target.package = folder.number<std::int32_t>("package").value_or(-1);
  target.tier = folder.number<std::int32_t>("tier").value_or(-1);
  target.size = folder.need<std::uint64_t>("size");
  target.free = folder.number<std::uint64_t>("free");
  target.online = folder.flag("online", true);
  target.cpus = folder.ids("cpulist");
  target.device = folder.text("device").value_or("");
  for (int level = 1;; ++level) {
    const Folder index(folder.path() / fmt::format("memory_side_cache{}", level));
    if (!fs::is_directory(index.path())) return target;
    target.caches.push_back({.size = index.need<std::uint64_t>("size"),
                             .line_size = index.number<std::uint32_t>("line_size").value_or(0),
                             .indexing = index.number<std::int32_t>("indexing").value_or(-1),
                             .write_policy = index.number<std::int32_t>("write_policy").value_or(-1)});
  }
}

Initiator read_initiator(const Folder& folder) {
  Initiator initiator;
  initiator.kind = folder.named("kind", InitiatorKind::kCpu, &initiator_kind_of);
  initiator.node = folder.number<std::int32_t>("nid").value_or(-1);
  initiator.package = folder.number<std::int32_t>("package").value_or(-1);
  initiator.cpus = folder.ids("cpulist");
  initiator.device = folder.text("device").value_or("");
  return initiator;
}

Link read_link(const Folder& folder) {
  Link link;
  read_figures(folder, link);
  link.merged = folder.flag("merged", false);
  link.initiators = folder.members(ObjectType::kInitiator);
  link.targets = folder.members(ObjectType::kTarget);
  return link;
}

Bridge read_bridge(const Folder& folder) {
  Bridge bridge;
  read_figures(folder, bridge);
  bridge.from = folder.need<Uid>("from");
  bridge.to = folder.need<Uid>("to");
  bridge.both_ways = folder.flag("both_ways", false);
  bridge.initiators = folder.members(ObjectType::kInitiator);
  return bridge;
}

class Reader {
 public:
  explicit Reader(fs::path root) : root_(std::move(root)) {
    for (const auto& name : names_in(root_)) {
      if (auto entry = parse_entry(name)) entries_.emplace_back(*entry, name);
    }
    std::sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) { return a.first.uid < b.first.uid; });
  }

  Topology read() {
    add_all(ObjectType::kTarget, &read_target);
    add_all(ObjectType::kInitiator, &read_initiator);
    add_all(ObjectType::kLink, &read_link);
    add_all(ObjectType::kBridge, &read_bridge);
    topology_.reserve_uids(Folder(root_).need<Uid>("next_uid"));
    const Folder info(root_ / "info");
    for (int number = 0;; ++number) {
      const auto key = info.text(fmt::format("{}.key", number).c_str());
      if (!key) return std::move(topology_);
      topology_.info[*key] = info.text(fmt::format("{}.value", number).c_str()).value_or("");
    }
  }

 private:
  template <typename T>
  void add_all(ObjectType type, T (*read_one)(const Folder&)) {
    for (const auto& [entry, name] : entries_) {
      if (entry.type != type) continue;
      const Folder folder(root_ / name);
      T object = read_one(folder);
      read_object(folder, entry, object);
      if (auto added = topology_.add(std::move(object)); !added) throw Failed{added.error()};
    }
  }

  fs::path root_;
  std::vector<std::pair<EntryName, std::string>> entries_;
  Topology topology_;
};

}  // namespace

bool is_topology_tree(const std::string& folder) {
  std::error_code error;
  return fs::is_regular_file(fs::path(folder) / "next_uid", error);
}

Result<void> write_tree(const Topology& topology, const std::string& folder) {
  std::error_code error;
  if (fs::exists(folder, error) && !fs::is_empty(folder, error)) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} exists and is not an empty folder", folder));
  }
  try {
    Writer(topology, folder).write();
    return {};
  } catch (const Failed& failed) {
    return tl::unexpected(failed.error);
  }
}

Result<Topology> read_tree(const std::string& folder) {
  try {
    return Reader(folder).read();
  } catch (const Failed& failed) {
    return tl::unexpected(failed.error);
  }
}

}  // namespace mirrorcl::hms
