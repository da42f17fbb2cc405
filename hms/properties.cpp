// SPDX-License-Identifier: Apache-2.0
#include "hms/properties.h"

#include <algorithm>
#include <limits>

namespace mirrorcl::hms {
namespace {

constexpr std::array<std::string_view, kPropertyCount> kPropertyNames = {
    "bandwidth",    "read_bandwidth", "write_bandwidth", "latency",
    "read_latency", "write_latency",  "bus_width",       "granularity"};
constexpr std::array<std::string_view, kPropertyCount> kPropertyUnits = {"MiB/s", "MiB/s", "MiB/s", "ns",
                                                                         "ns",    "ns",    "bits",  "bytes"};
constexpr std::array<std::string_view, 4> kSourceNames = {"assumed", "firmware", "measured", "configured"};

enum class Rule { kMinimum, kMaximum, kSum };

constexpr Rule rule_of(Property property) {
  switch (property) {
    case Property::kLatency:
    case Property::kReadLatency:
    case Property::kWriteLatency:
      return Rule::kSum;
    case Property::kGranularity:
      return Rule::kMaximum;
    default:
      return Rule::kMinimum;
  }
}

std::uint64_t combine(Rule rule, std::uint64_t a, std::uint64_t b) {
  switch (rule) {
    case Rule::kMinimum:
      return std::min(a, b);
    case Rule::kMaximum:
      return std::max(a, b);
    case Rule::kSum:
      break;
  }
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  return a > kMost - b ? kMost : a + b;
}

Value combine(Rule rule, Value a, Value b) {
  return Value{combine(rule, a.number, b.number), std::min(a.source, b.source)};
}

// The figure for one direction and for both that `property` is related to; nothing for the others.
struct Relatives {
  Property both, read, write;
};
constexpr std::optional<Relatives> relatives_of(Property property) {
  switch (property) {
    case Property::kBandwidth:
    case Property::kReadBandwidth:
    case Property::kWriteBandwidth:
      return Relatives{Property::kBandwidth, Property::kReadBandwidth, Property::kWriteBandwidth};
    case Property::kLatency:
    case Property::kReadLatency:
    case Property::kWriteLatency:
      return Relatives{Property::kLatency, Property::kReadLatency, Property::kWriteLatency};
    default:
      return std::nullopt;
  }
}

template <std::size_t N>
std::optional<std::size_t> position(const std::array<std::string_view, N>& names, std::string_view name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) return std::nullopt;
  return static_cast<std::size_t>(found - names.begin());
}

}  // namespace

void Properties::set(Property property, Value value) noexcept {
  values_[index(property)] = value;
  present_ = static_cast<std::uint8_t>(present_ | 1u << index(property));
}

void Properties::clear(Property property) noexcept {
  values_[index(property)] = Value{};
  present_ = static_cast<std::uint8_t>(present_ & ~(1u << index(property)));
}

std::optional<Value> Properties::figure(Property property) const noexcept {
  if (has(property)) return values_[index(property)];
  const auto relatives = relatives_of(property);
  if (!relatives) return std::nullopt;
  if (property != relatives->both) return get(relatives->both);
  if (!has(relatives->read) || !has(relatives->write)) return std::nullopt;
  const Rule worse = rule_of(property) == Rule::kSum ? Rule::kMaximum : Rule::kMinimum;
  return combine(worse, values_[index(relatives->read)], values_[index(relatives->write)]);
}

std::optional<Value> Properties::bandwidth(Direction direction) const noexcept {
  switch (direction) {
    case Direction::kRead:
      return figure(Property::kReadBandwidth);
    case Direction::kWrite:
      return figure(Property::kWriteBandwidth);
    case Direction::kBoth:
      break;
  }
  return figure(Property::kBandwidth);
}

std::optional<Value> Properties::latency(Direction direction) const noexcept {
  switch (direction) {
    case Direction::kRead:
      return figure(Property::kReadLatency);
    case Direction::kWrite:
      return figure(Property::kWriteLatency);
    case Direction::kBoth:
      break;
  }
  return figure(Property::kLatency);
}

PathFigures join(const PathFigures& a, const PathFigures& b) noexcept {
  PathFigures result;
  for (std::size_t i = 0; i < kPropertyCount; ++i) {
    const auto property = static_cast<Property>(i);
    const auto relatives = relatives_of(property);
    const bool derived =
        relatives && property != relatives->both && !a.properties.has(property) && !b.properties.has(property);
    if (derived) continue;  // follows from the figure for both
    const auto x = a.properties.figure(property);
    const auto y = b.properties.figure(property);
    if (x && y) result.properties.set(property, combine(rule_of(property), *x, *y));
  }
  result.coherent = a.coherent && b.coherent;
  result.atomic = a.atomic && b.atomic;
  return result;
}

std::string_view name_of(Property property) {
  return kPropertyNames[static_cast<std::size_t>(property)];
}
std::string_view unit_of(Property property) {
  return kPropertyUnits[static_cast<std::size_t>(property)];
}
std::string_view name_of(Source source) {
  return kSourceNames[static_cast<std::size_t>(source)];
}

std::optional<Property> property_of(std::string_view name) {
  const auto i = position(kPropertyNames, name);
  return i ? std::optional(static_cast<Property>(*i)) : std::nullopt;
}

std::optional<Source> source_of(std::string_view name) {
  const auto i = position(kSourceNames, name);
  return i ? std::optional(static_cast<Source>(*i)) : std::nullopt;
}

}  // namespace mirrorcl::hms
