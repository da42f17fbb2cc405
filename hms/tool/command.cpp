// SPDX-License-Identifier: Apache-2.0
#include "hms/tool/command.h"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <fstream>

#include "hms/load.h"

namespace mirrorcl::hms::tool {
namespace {

std::optional<std::uint32_t> number_in(std::string_view text) {
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

// "cpu:12" with prefix "cpu:" -> 12
std::optional<std::uint32_t> number_after(std::string_view prefix, std::string_view text) {
  return text.starts_with(prefix) ? number_in(text.substr(prefix.size())) : std::nullopt;
}

template <typename T>
std::string names_of(std::span<const T> objects) {
  constexpr std::size_t kMost = 20;
  std::string names;
  for (std::size_t i = 0; i < objects.size() && i < kMost; ++i) names += (i == 0 ? "" : ", ") + objects[i].name;
  if (objects.size() > kMost) names += fmt::format(" and {} more (see 'hms show')", objects.size() - kMost);
  return names.empty() ? "none" : names;
}

template <typename T>
tl::unexpected<Error> not_found(std::string_view what, const std::string& text, std::span<const T> objects) {
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("there is no {} '{}'; there are: {}", what, text, names_of(objects)));
}

}  // namespace

void complain(Context& context, const Error& error) {
  fmt::print(stderr, "hms: {}\n", error.message);
  context.status = 1;
}

std::optional<Topology> load_topology(Context& context) {
  auto topology = load(context.topology);
  if (topology) return *std::move(topology);
  complain(context, topology.error());
  return std::nullopt;
}

Result<Uid> initiator_named(const Topology& topology, const std::string& text) {
  const Initiator* found = nullptr;
  if (const auto uid = number_in(text)) found = topology.initiator(*uid);
  if (const Object* object = topology.find(text); found == nullptr && object != nullptr) {
    found = topology.initiator(object->uid);
  }
  if (const auto cpu = number_after("cpu:", text); found == nullptr && cpu) found = topology.initiator_of_cpu(*cpu);
  if (found == nullptr) found = topology.initiator_of_device(text);
  if (found == nullptr) return not_found("initiator", text, topology.initiators());
  return found->uid;
}

Result<Uid> target_named(const Topology& topology, const std::string& text) {
  const Target* found = nullptr;
  if (const auto uid = number_in(text)) found = topology.target(*uid);
  if (const Object* object = topology.find(text); found == nullptr && object != nullptr)
    found = topology.target(object->uid);
  if (const auto node = number_after("node:", text); found == nullptr && node) {
    found = topology.target_of_node(static_cast<std::int32_t>(*node));
  }
  if (found == nullptr) found = topology.target_of_device(text);
  if (found == nullptr) return not_found("memory", text, topology.targets());
  return found->uid;
}

Result<std::uint64_t> address_named(const std::string& text) {
  std::string_view digits = text;
  if (digits.starts_with("0x")) digits.remove_prefix(2);
  std::uint64_t address = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), address, 16);
  if (error != std::errc{} || end != digits.data() + digits.size()) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is no address: give one in hexadecimal, as /proc/PID/maps does", text));
  }
  return address;
}

Result<void> write_output(std::string_view text, const std::string& file) {
  if (file.empty()) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (std::fflush(stdout) != 0) return fail_errno("cannot write to standard output", errno);
    return {};
  }
  std::ofstream stream(file, std::ios::binary);
  stream << text;
  stream.close();
  if (!stream) return fail_errno(fmt::format("cannot write {}", file), errno);
  return {};
}

}  // namespace mirrorcl::hms::tool
