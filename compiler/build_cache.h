// SPDX-License-Identifier: Apache-2.0
// The disk cache of built programs: a file per program, named by a hash of the request and everything that made it,
// and holding the request too, so that a program never gets another one's code.
//
// Thread safety: all members; processes may share the folder.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "compiler/client.h"

namespace mirrorcl::compiler {

class BuildCache {
 public:
  struct Entry {
    ProgramImage image;
    std::string log;  // the warnings of the first build
  };

  static constexpr std::uint64_t kLargest = std::uint64_t{1} << 30;  // bytes

  // An empty folder name: no cache. Creates nothing. Beyond `largest` bytes (looked at now and then) the oldest files
  // go, until half of it is left.
  explicit BuildCache(std::string folder, std::uint64_t largest = kLargest);

  std::string key_of(const BuildRequest& request) const;
  // Nothing if there is none, or a damaged one.
  std::optional<Entry> load(const std::string& key, const BuildRequest& request) const;
  // A folder that cannot be written costs one line in the log, and the caching.
  void store(const std::string& key, const BuildRequest& request, const Entry& entry);

  std::string path_of(const std::string& key) const { return folder_ + "/" + key + ".program"; }

  // Keeps the folder under its limit, and removes what writers that were killed have left.
  void trim() const;

 private:
  std::string folder_;
  std::uint64_t largest_;
  std::atomic<bool> complained_{false};
};

}  // namespace mirrorcl::compiler
