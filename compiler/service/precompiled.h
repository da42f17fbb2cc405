// SPDX-License-Identifier: Apache-2.0
// Precompiled headers on disk: a file each, named by a hash of everything it depends on, with a checksum.
#pragma once

#include <string>
#include <vector>

namespace mirrorcl::compiler {

// A hash over the arguments, the prefix header, and names, sizes and times of the headers that it includes.
std::string precompiled_key(const std::vector<std::string>& arguments);

// Empty if there is none, or a damaged one.
std::string load_precompiled(const std::string& folder, const std::string& key);
// Best effort; concurrent writers are fine.
void store_precompiled(const std::string& folder, const std::string& key, const std::string& content);

// Empty if it cannot be read.
std::string read_file(const std::string& path);
void remove_file(const std::string& path);

}  // namespace mirrorcl::compiler
