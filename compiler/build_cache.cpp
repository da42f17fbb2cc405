// SPDX-License-Identifier: Apache-2.0
#include "compiler/build_cache.h"

#include <cpuid.h>

#include <string_view>

#include "base/log.h"
#include "base/options.h"
#include "base/paths.h"
#include "compiler/bytes.h"
#include "compiler/checked_file.h"
#include "compiler/pocl_library.h"
#include "compiler/protocol.h"

namespace mirrorcl::compiler {
namespace {

// To be raised when the meaning of an entry changes without a change of the service's file.
constexpr std::string_view kFormat = "mirrorcl program 1";

// What PoCL chooses the code's processor by: vendor, model and features.
void add_processor(ContentHash& hash) {
  struct Leaf {
    unsigned leaf, subleaf;
  };
  for (Leaf leaf : {Leaf{0, 0}, Leaf{1, 0}, Leaf{7, 0}, Leaf{7, 1}, Leaf{0x80000001, 0}}) {
    unsigned registers[4] = {};
    __get_cpuid_count(leaf.leaf, leaf.subleaf, &registers[0], &registers[1], &registers[2], &registers[3]);
    if (leaf.leaf == 1) registers[1] = 0;  // the number of the CPU that ran this
    hash.add({reinterpret_cast<const char*>(registers), sizeof registers});
  }
}

}  // namespace

BuildCache::BuildCache(std::string folder) : folder_(std::move(folder)) {}

std::string BuildCache::key_of(const BuildRequest& request) const {
  ContentHash hash;
  hash.add(kFormat);
  hash.add(request.source);
  hash.add(request.options);
  add_processor(hash);
  hash.add_identity(private_file("mirrorcl-compiler"));
  hash.add_identity(pocl_library_path());
  for (const char* library : kCompilerLibraries) hash.add_identity(library);
  return hash.text();
}

std::optional<BuildCache::Entry> BuildCache::load(const std::string& key, const BuildRequest& request) const {
  if (folder_.empty()) return std::nullopt;
  auto content = read_checked_file(path_of(key));
  if (!content) {
    if (content.error().code == ErrorCode::kInvalidArgument)
      log_info("compiler cache: {}; built anew", content.error().message);
    return std::nullopt;
  }
  ByteReader in(*content);
  if (in.text() != kFormat || in.text() != request.source || in.text() != request.options) return std::nullopt;
  Entry entry;
  entry.log = in.text();
  entry.image = read_image(in);
  if (!in.at_end()) return std::nullopt;
  return entry;
}

void BuildCache::store(const std::string& key, const BuildRequest& request, const Entry& entry) {
  if (folder_.empty()) return;
  ByteWriter out;
  out.text(kFormat);
  out.text(request.source);
  out.text(request.options);
  out.text(entry.log);
  write_image(out, entry.image);
  if (auto written = write_checked_file(path_of(key), out.bytes()); !written && !complained_.exchange(true)) {
    log_warning("compiler cache is off: {}", written.error().message);
  }
}

}  // namespace mirrorcl::compiler
