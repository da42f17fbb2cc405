// SPDX-License-Identifier: Apache-2.0
#include "base/paths.h"

#include <dlfcn.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "base/options.h"

namespace mirrorcl {

std::string private_file(const std::string& name) {
  namespace fs = std::filesystem;
  if (!options().library_dir.empty()) return options().library_dir + "/" + name;
  Dl_info info{};
  std::error_code ignored;
  fs::path self = dladdr(reinterpret_cast<const void*>(&private_file), &info) != 0 && info.dli_fname != nullptr
                      ? fs::canonical(info.dli_fname, ignored)
                      : fs::path();
  // For the main program dladdr gives argv[0], which need not be a path that can be resolved.
  if (self.empty()) self = fs::read_symlink("/proc/self/exe", ignored);
  fs::path folder = self.parent_path();
  if (fs::path beside = folder / "mirrorcl" / name; fs::exists(beside, ignored)) return beside;
  if (fs::path library = folder.parent_path() / "lib" / "mirrorcl" / name; fs::exists(library, ignored)) return library;
  return folder / "mirrorcl" / name;
}

}  // namespace mirrorcl
