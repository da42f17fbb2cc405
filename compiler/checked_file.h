// SPDX-License-Identifier: Apache-2.0
// Files of the disk cache: written whole or not at all, and read only if their checksum is right.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mirrorcl::compiler {

// XXH3 (128 bits) over a sequence of texts; their borders count.
class ContentHash {
 public:
  ContentHash();
  ~ContentHash();
  void add(std::string_view text);
  // Path, size, inode and time of change of a file; a missing file counts as such.
  void add_identity(const std::string& path);
  // The same, for files whose order is not fixed.
  void add_unordered_identity(const std::string& path);
  std::string text() const;  // 32 hexadecimal digits

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::uint64_t unordered_ = 0;
};

// The content, or why there is none: kInvalidArgument for a file that is damaged or of another format, kSystem
// otherwise.
Result<std::vector<std::byte>> read_checked_file(const std::string& path);

// Replaces `path` atomically; readers see the old or the new content. Creates the folder (mode 0700). kSystem.
Result<void> write_checked_file(const std::string& path, std::span<const std::byte> content);

}  // namespace mirrorcl::compiler
