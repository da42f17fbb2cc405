// SPDX-License-Identifier: Apache-2.0
#include "compiler/build_cache.h"

#include <cpuid.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

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
constexpr std::string_view kFormat = "mirrorcl program 2";

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

BuildCache::BuildCache(std::string folder, std::uint64_t largest) : folder_(std::move(folder)), largest_(largest) {}

std::string BuildCache::key_of(const BuildRequest& request) const {
  ByteWriter asked;
  write_request(asked, request);
  ContentHash hash;
  hash.add(kFormat);
  hash.add(ByteReader::to_string(asked.bytes()));
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
  ByteWriter asked;
  write_request(asked, request);
  if (in.text() != kFormat || !std::ranges::equal(in.raw(asked.bytes().size()), asked.bytes())) return std::nullopt;
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
  write_request(out, request);
  out.text(entry.log);
  write_image(out, entry.image);
  if (auto written = write_checked_file(path_of(key), out.bytes()); !written && !complained_.exchange(true)) {
    log_warning("compiler cache is off: {}", written.error().message);
  }
  // Keys are evenly spread: every 64th store or so.
  if (key.starts_with("00") || key.starts_with("40") || key.starts_with("80") || key.starts_with("c0")) trim();
}

void BuildCache::trim() const {
  namespace fs = std::filesystem;
  struct File {
    fs::file_time_type time;
    std::uint64_t size;
    fs::path path;
  };
  std::vector<File> files;
  std::uint64_t total = 0;
  std::error_code error;
  const auto now = fs::file_time_type::clock::now();
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    // Other processes write and trim too: a file may be gone at any moment.
    std::error_code gone;
    File file{entry.last_write_time(gone), entry.file_size(gone), entry.path()};
    if (gone) continue;
    const std::string kind = file.path.extension().string();
    if (kind == ".tmp") {
      if (now - file.time > std::chrono::hours(1)) fs::remove(file.path, gone);
    } else if (kind == ".program" || kind == ".pch") {
      total += file.size;
      files.push_back(std::move(file));
    }
  }
  if (total <= largest_) return;
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.time < b.time; });
  for (const File& file : files) {
    if (total <= largest_ / 2) break;
    std::error_code gone;
    fs::remove(file.path, gone);
    total -= file.size;
  }
}

}  // namespace mirrorcl::compiler
