// SPDX-License-Identifier: Apache-2.0
// The figures of links, bridges and paths: numbers with a unit and a source.
//
// A figure of a path follows from its hops: the minimum of bandwidths and of bus widths, the sum of latencies, the
// maximum of granularities. (The 2018 proposal took the minimum of latencies too; that is wrong, see docs/hms.md.) A
// path has a figure only if every hop has it, and its source is the least certain of theirs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "hms/api.h"

namespace mirrorcl::hms {

enum class Property : std::uint8_t {
  kBandwidth,       // MiB/s, more is better: reads and writes
  kReadBandwidth,   // MiB/s
  kWriteBandwidth,  // MiB/s
  kLatency,         // ns, less is better: reads and writes
  kReadLatency,     // ns
  kWriteLatency,    // ns
  kBusWidth,        // bits, more is better
  kGranularity,     // bytes of the smallest transfer, less is better
};
inline constexpr std::size_t kPropertyCount = 8;

// Where a figure comes from, least certain first.
enum class Source : std::uint8_t {
  kAssumed,     // a typical figure of this kind of memory; nobody said so
  kFirmware,    // the machine's firmware (HMAT, SLIT) or the device says so
  kMeasured,    // measured on this machine
  kConfigured,  // a file or the user says so
};

struct Value {
  std::uint64_t number = 0;
  Source source = Source::kAssumed;
  friend bool operator==(const Value&, const Value&) = default;
};

// Which accesses a question is about. kBoth takes the worse of reads and writes.
enum class Direction : std::uint8_t { kBoth, kRead, kWrite };

class HMS_API Properties {
 public:
  // The figure as it was set.
  std::optional<Value> get(Property property) const noexcept {
    return has(property) ? std::optional(values_[index(property)]) : std::nullopt;
  }
  bool has(Property property) const noexcept { return (present_ >> index(property) & 1u) != 0; }
  bool empty() const noexcept { return present_ == 0; }
  void set(Property property, Value value) noexcept;
  void clear(Property property) noexcept;

  // The figure as far as it follows from others: read and write figures from the one for both, and that from
  // the worse of read and write.
  std::optional<Value> figure(Property property) const noexcept;
  std::optional<Value> bandwidth(Direction direction = Direction::kBoth) const noexcept;  // MiB/s
  std::optional<Value> latency(Direction direction = Direction::kBoth) const noexcept;    // ns

  friend bool operator==(const Properties&, const Properties&) = default;

 private:
  static constexpr std::size_t index(Property property) { return static_cast<std::size_t>(property); }

  std::array<Value, kPropertyCount> values_{};  // those that are not present are Value{}
  std::uint8_t present_ = 0;                    // a set bit n means: values_[n] has been set
};

// What holds for every hop of a path.
struct PathFigures {
  Properties properties;
  bool coherent = true;  // accesses are coherent with everybody else's
  bool atomic = true;    // atomic operations are atomic for everybody
  friend bool operator==(const PathFigures&, const PathFigures&) = default;
};

// The figures of two hops in a row. Associative and commutative.
HMS_API PathFigures join(const PathFigures& a, const PathFigures& b) noexcept;

HMS_API std::string_view name_of(Property property);  // "bandwidth", "read_bandwidth", ...: also in files
HMS_API std::string_view unit_of(Property property);  // "MiB/s", "ns", "bits", "bytes"
HMS_API std::string_view name_of(Source source);      // "assumed", "firmware", "measured", "configured"
HMS_API std::optional<Property> property_of(std::string_view name);
HMS_API std::optional<Source> source_of(std::string_view name);

// 200 GB/s as the data sheets say it (10^9 bytes) -> 190735 MiB/s.
constexpr std::uint64_t mib_per_s(double gigabytes_per_s) {
  return static_cast<std::uint64_t>(gigabytes_per_s * 1e9 / (1 << 20) + 0.5);
}

}  // namespace mirrorcl::hms
