// SPDX-License-Identifier: Apache-2.0
// What was measured on a machine, by names of initiator and target; and where it is kept between runs.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "hms/api.h"
#include "hms/properties.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

class HMS_API Measurements {
 public:
  // The figures of `initiator`'s accesses to `target`; empty if not measured.
  Properties get(std::string_view initiator, std::string_view target) const;
  // Keeps what was known and is not in `figures`. Their source becomes kMeasured.
  void add(const std::string& initiator, const std::string& target, const Properties& figures);
  bool empty() const noexcept { return figures_.empty(); }

  // The cache file of the machine that `topology` describes, under XDG_CACHE_HOME (MIRRORCL_CACHE_DIR): named by a hash
  // of what the machine consists of, so that another machine with the same home directory has another file.
  static std::string cache_file(const Topology& topology);

  // An absent file holds nothing. A damaged one is kInvalidArgument.
  static Result<Measurements> load(const std::string& path);
  // Writes a new file and renames it, so that a reader sees the old one or the new one.
  Result<void> save(const std::string& path) const;

  friend bool operator==(const Measurements&, const Measurements&) = default;

 private:
  std::map<std::pair<std::string, std::string>, Properties, std::less<>> figures_;
};

}  // namespace mirrorcl::hms
