// SPDX-License-Identifier: Apache-2.0
#include "compiler/service/precompiled.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "compiler/checked_file.h"
#include "compiler/service/pocl_version.h"
#include "compiler/service/prefix_text.h"

namespace mirrorcl::compiler {

std::string precompiled_key(const std::vector<std::string>& arguments) {
  ContentHash hash;
  for (const std::string& argument : arguments) hash.add(argument);
  hash.add(kPrefixText);
  hash.add_identity("/proc/self/exe");
  std::error_code ignored;
  for (const auto& header : std::filesystem::directory_iterator(pocl::kHeaders, ignored)) {
    hash.add_unordered_identity(header.path().string());
  }
  return hash.text();
}

std::string load_precompiled(const std::string& folder, const std::string& key) {
  if (folder.empty()) return {};
  auto bytes = read_checked_file(folder + "/prefix-" + key + ".pch");
  if (!bytes) return {};
  return {reinterpret_cast<const char*>(bytes->data()), bytes->size()};
}

void store_precompiled(const std::string& folder, const std::string& key, const std::string& content) {
  if (folder.empty()) return;
  // The client says once when the folder cannot be written; without it the next service precompiles again.
  (void)write_checked_file(folder + "/prefix-" + key + ".pch", std::as_bytes(std::span(content)));
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void remove_file(const std::string& path) {
  unlink(path.c_str());
}

}  // namespace mirrorcl::compiler
