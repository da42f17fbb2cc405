// SPDX-License-Identifier: Apache-2.0
#include "compiler/checked_file.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include "compiler/build_cache.h"
#include "compiler/test_support.h"

namespace mirrorcl::compiler {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TEST(checked_file, gives_back_what_was_written) {
  TemporaryFolder folder;
  std::string path = folder.path() + "/new/folders/file";
  ASSERT_TRUE(write_checked_file(path, bytes_of("content")).has_value());
  auto content = read_checked_file(path);
  ASSERT_TRUE(content.has_value()) << content.error().message;
  EXPECT_EQ(std::memcmp(content->data(), "content", 7), 0);
  ASSERT_TRUE(write_checked_file(path, bytes_of("")).has_value());
  EXPECT_TRUE(read_checked_file(path)->empty());
}

TEST(checked_file, cut_or_changed_anywhere_is_damaged) {
  TemporaryFolder folder;
  std::string path = folder.path() + "/file";
  ASSERT_TRUE(write_checked_file(path, bytes_of("some content")).has_value());
  std::ifstream in(path, std::ios::binary);
  std::string good((std::istreambuf_iterator<char>(in)), {});
  auto check = [&](const std::string& bad, const std::string& what) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bad;
    auto content = read_checked_file(path);
    ASSERT_FALSE(content.has_value()) << what;
    EXPECT_EQ(content.error().code, ErrorCode::kInvalidArgument) << what;
  };
  for (std::size_t length = 0; length < good.size(); ++length)
    check(good.substr(0, length), "length " + std::to_string(length));
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    check(bad, "byte " + std::to_string(at));
  }
  check(good + "x", "longer");
}

TEST(content_hash, depends_on_content_and_on_borders) {
  auto hash = [](std::initializer_list<const char*> texts) {
    ContentHash result;
    for (const char* text : texts) result.add(text);
    return result.text();
  };
  EXPECT_EQ(hash({"ab", "c"}), hash({"ab", "c"}));
  EXPECT_NE(hash({"ab", "c"}), hash({"a", "bc"}));
  EXPECT_NE(hash({"a"}), hash({"b"}));
  EXPECT_EQ(hash({"a"}).size(), 32U);
}

BuildCache::Entry sample_entry() {
  BuildCache::Entry entry;
  entry.log = "a warning\n";
  KernelImage kernel;
  kernel.name = "k";
  kernel.arguments.push_back({KernelArgument::Kind::kPointer, 8, 1, 2, 3, "int*", "p"});
  kernel.automatic_locals = {64, 128};
  kernel.required_local_size = {1, 2, 3};
  kernel.attributes = "reqd_work_group_size(1,2,3)";
  kernel.uses_printf = true;
  kernel.elf.resize(1000, std::byte{7});
  entry.image.kernels.push_back(kernel);
  entry.image.flush_denormals = true;
  entry.image.global_variables_size = 12;
  return entry;
}

TEST(build_cache, keeps_an_entry_for_its_own_request_only) {
  TemporaryFolder folder;
  BuildCache cache(folder.path() + "/cache");
  BuildRequest request{"source", "-w"};
  std::string key = cache.key_of(request);
  EXPECT_NE(key, cache.key_of({"source", "-g"}));
  EXPECT_NE(key, cache.key_of({"Source", "-w"}));
  EXPECT_FALSE(cache.load(key, request).has_value());
  cache.store(key, request, sample_entry());
  auto entry = cache.load(key, request);
  ASSERT_TRUE(entry.has_value());
  EXPECT_EQ(entry->log, "a warning\n");
  ASSERT_EQ(entry->image.kernels.size(), 1U);
  const KernelImage& kernel = entry->image.kernels[0];
  EXPECT_EQ(kernel.name, "k");
  EXPECT_EQ(kernel.arguments.at(0).type_name, "int*");
  EXPECT_EQ(kernel.automatic_locals, (std::vector<std::uint64_t>{64, 128}));
  EXPECT_EQ(kernel.elf.size(), 1000U);
  EXPECT_TRUE(entry->image.flush_denormals);
  // As if two programs had one hash: the other one is not served.
  EXPECT_FALSE(cache.load(key, {"other source", "-w"}).has_value());
}

TEST(build_cache, ignores_and_rewrites_a_damaged_entry) {
  TemporaryFolder folder;
  BuildCache cache(folder.path());
  BuildRequest request{"source", ""};
  std::string key = cache.key_of(request);
  cache.store(key, request, sample_entry());
  auto whole = std::filesystem::file_size(cache.path_of(key));
  for (std::uintmax_t size : {std::uintmax_t{0}, whole / 2, whole - 1}) {
    std::filesystem::resize_file(cache.path_of(key), size);
    EXPECT_FALSE(cache.load(key, request).has_value()) << size;
    cache.store(key, request, sample_entry());
    EXPECT_TRUE(cache.load(key, request).has_value()) << size;
  }
}

TEST(build_cache, does_without_a_folder_that_cannot_be_written) {
  TemporaryFolder folder;
  std::ofstream(folder.path() + "/file") << "not a folder";
  BuildCache cache(folder.path() + "/file/cache");
  BuildRequest request{"source", ""};
  std::string key = cache.key_of(request);
  testing::internal::CaptureStderr();
  cache.store(key, request, sample_entry());
  cache.store(key, request, sample_entry());
  std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_FALSE(cache.load(key, request).has_value());
}

TEST(build_cache, stays_under_its_limit_and_drops_the_oldest) {
  TemporaryFolder folder;
  BuildCache cache(folder.path(), 10'000);
  auto now = std::filesystem::file_time_type::clock::now();
  std::vector<std::string> paths;
  for (int i = 0; i < 12; ++i) {  // 12 entries of over 1,000 bytes
    BuildRequest request{"source " + std::to_string(i), ""};
    std::string key = cache.key_of(request);
    cache.store(key, request, sample_entry());
    paths.push_back(cache.path_of(key));
    if (std::filesystem::exists(paths.back())) {
      std::filesystem::last_write_time(paths.back(), now - std::chrono::minutes(100 - i));
    }
  }
  std::ofstream(folder.path() + "/old.tmp") << "of a writer that was killed";
  std::filesystem::last_write_time(folder.path() + "/old.tmp", now - std::chrono::hours(2));
  std::ofstream(folder.path() + "/new.tmp") << "of a writer at work";
  std::ofstream(folder.path() + "/other") << "not ours";
  cache.trim();
  EXPECT_FALSE(std::filesystem::exists(paths.front()));
  EXPECT_TRUE(std::filesystem::exists(paths.back()));
  EXPECT_FALSE(std::filesystem::exists(folder.path() + "/old.tmp"));
  EXPECT_TRUE(std::filesystem::exists(folder.path() + "/new.tmp"));
  EXPECT_TRUE(std::filesystem::exists(folder.path() + "/other"));
  std::uintmax_t total = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) total += entry.file_size();
  // Half of the limit after a trim, and what was stored since if a store has trimmed already.
  EXPECT_LT(total, 10'000U);
}

TEST(build_cache, readers_and_writers_at_once_see_whole_entries) {
  TemporaryFolder folder;
  BuildRequest request{"source", ""};
  std::vector<std::thread> threads;
  std::atomic<int> seen{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      BuildCache cache(folder.path());
      std::string key = cache.key_of(request);
      for (int round = 0; round < 50; ++round) {
        cache.store(key, request, sample_entry());
        auto entry = cache.load(key, request);
        if (entry.has_value() && entry->image.kernels.at(0).elf.size() == 1000) ++seen;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(seen, 200);
  // Nothing but the entry is left.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

}  // namespace
}  // namespace mirrorcl::compiler
