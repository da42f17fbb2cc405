// SPDX-License-Identifier: Apache-2.0
// A set of small numbers (CPUs, NUMA nodes) with the kernel's list notation: "0-3,8".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hms/api.h"

namespace mirrorcl::hms {

class HMS_API IdSet {
 public:
  // Larger numbers are refused by parse(); no kernel numbers CPUs or nodes higher.
  static constexpr std::uint32_t kMax = 1u << 20;

  IdSet() = default;

  // Parses the notation of /sys/.../cpulist: numbers and ranges divided by commas, blanks around them; "" is the empty
  // set. Nothing if `text` is anything else.
  static std::optional<IdSet> parse(std::string_view text);
  // Every number from `first` to `last`, both included.
  static IdSet range(std::uint32_t first, std::uint32_t last);

  // `id` is at most kMax.
  void add(std::uint32_t id);
  bool contains(std::uint32_t id) const noexcept;
  bool empty() const noexcept { return words_.empty(); }
  std::size_t count() const noexcept;
  std::uint32_t first() const noexcept;  // the smallest; the set must not be empty

  bool intersects(const IdSet& other) const noexcept;
  bool includes(const IdSet& other) const noexcept;       // every member of `other` is in this set
  std::size_t common(const IdSet& other) const noexcept;  // the number of members of both
  IdSet& operator|=(const IdSet& other);

  std::vector<std::uint32_t> members() const;
  std::string to_string() const;  // what parse() reads, shortest form

  friend bool operator==(const IdSet&, const IdSet&) = default;

 private:
  std::vector<std::uint64_t> words_;  // bit n % 64 of word n / 64; the last word is never 0
};

}  // namespace mirrorcl::hms
