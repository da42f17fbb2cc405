// SPDX-License-Identifier: Apache-2.0
// The disk cache of built programs: a file per program, named by a hash of source, options and everything that made it,
// and holding source and options too, so that a program never gets another one's code.
//
// Thread safety: all members; processes may share the folder.
#pragma once

#include <atomic>
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

  // An empty folder name: no cache. Creates nothing.
  explicit BuildCache(std::string folder);

  std::string key_of(const BuildRequest& request) const;
  // Nothing if there is none, or a damaged one.
  std::optional<Entry> load(const std::string& key, const BuildRequest& request) const;
  // A folder that cannot be written costs one line in the log, and the caching.
  void store(const std::string& key, const BuildRequest& request, const Entry& entry);

  std::string path_of(const std::string& key) const { return folder_ + "/" + key + ".program"; }

 private:
  std::string folder_;
  std::atomic<bool> complained_{false};
};

}  // namespace mirrorcl::compiler
