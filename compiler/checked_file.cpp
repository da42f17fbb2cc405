// SPDX-License-Identifier: Apache-2.0
#include "compiler/checked_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/unique_fd.h"

namespace mirrorcl::compiler {
namespace {

constexpr std::uint64_t kMagic = 0x3130'4c43'7272'694d;  // "MirrCL01"
constexpr std::uint64_t kLargestFile = std::uint64_t{1} << 30;

struct FileHeader {
  std::uint64_t magic;
  std::uint64_t size;  // of the content
  XXH128_hash_t checksum;
};

std::string identity_of(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return path + " missing";
  return fmt::format("{} {} {} {}.{}", path, info.st_size, info.st_ino, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

Result<void> make_folders(const std::string& path) {
  for (std::size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    std::string folder = path.substr(0, slash);
    if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno("mkdir " + folder, errno);
  }
  return {};
}

Result<void> write_all(int fd, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail_errno("write " + path, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

}  // namespace

struct ContentHash::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

ContentHash::ContentHash() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(state_->xxh);
}
ContentHash::~ContentHash() = default;

void ContentHash::add(std::string_view text) {
  std::uint64_t size = text.size();
  XXH3_128bits_update(state_->xxh, &size, sizeof size);
  XXH3_128bits_update(state_->xxh, text.data(), text.size());
}

void ContentHash::add_identity(const std::string& path) {
  add(identity_of(path));
}

void ContentHash::add_unordered_identity(const std::string& path) {
  std::string identity = identity_of(path);
  unordered_ += XXH3_64bits(identity.data(), identity.size());
}

std::string ContentHash::text() const {
  XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return fmt::format("{:016x}{:016x}", hash.high64 + unordered_, hash.low64);
}

Result<std::vector<std::byte>> read_checked_file(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno("open " + path, errno);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return fail_errno("stat " + path, errno);
  auto damaged = [&] { return fail(ErrorCode::kInvalidArgument, path + " is damaged"); };
  FileHeader header{};
  auto file_size = static_cast<std::uint64_t>(info.st_size);
  if (!S_ISREG(info.st_mode) || file_size < sizeof header || file_size > kLargestFile) return damaged();
  if (read(fd.get(), &header, sizeof header) != sizeof header) return damaged();
  if (header.magic != kMagic || header.size != file_size - sizeof header) return damaged();
  std::vector<std::byte> content(header.size);
  std::size_t done = 0;
  while (done < content.size()) {
    ssize_t got = read(fd.get(), content.data() + done, content.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return damaged();
    done += static_cast<std::size_t>(got);
  }
  XXH128_hash_t checksum = XXH3_128bits(content.data(), content.size());
  if (XXH128_isEqual(checksum, header.checksum) == 0) return damaged();
  return content;
}

Result<void> write_checked_file(const std::string& path, std::span<const std::byte> content) {
  if (auto made = make_folders(path); !made) return made;
  // Unique among threads and processes of one machine; left behind only by a death right here.
  static std::atomic<unsigned> counter{0};
  std::string temporary = fmt::format("{}.{}-{}.tmp", path, getpid(), counter.fetch_add(1));
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd && errno == EEXIST) {  // of a dead process with our number
    unlink(temporary.c_str());
    fd.reset(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  }
  if (!fd) return fail_errno("open " + temporary, errno);
  FileHeader header{kMagic, content.size(), XXH3_128bits(content.data(), content.size())};
  Result<void> result = write_all(fd.get(), std::as_bytes(std::span(&header, 1)), temporary);
  if (result) result = write_all(fd.get(), content, temporary);
  if (result && rename(temporary.c_str(), path.c_str()) != 0) result = fail_errno("rename " + temporary, errno);
  if (!result) unlink(temporary.c_str());
  return result;
}

}  // namespace mirrorcl::compiler
