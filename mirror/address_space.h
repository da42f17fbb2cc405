// SPDX-License-Identifier: Apache-2.0
// What lies where in this process: queries of the kernel's list of mappings, of which pages are present, and reads of
// memory that never wait for a page fault of our own. Raw system calls only; no allocation after open().
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "mirror/device/operations.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {

// Which file a mapping shows. All zero: none.
struct FileIdentity {
  std::uint32_t device_major;
  std::uint32_t device_minor;
  std::uint64_t inode;
  bool operator==(const FileIdentity&) const = default;
};

struct MappingInfo {
  Range range;
  int protection;  // PROT_READ | PROT_WRITE | PROT_EXEC
  bool shared;
  bool anonymous;  // no file behind it
  bool excluded;   // the driver's own memory, or libraries its pinned threads depend on
  FileIdentity file{};
  std::uint64_t file_offset = 0;        // of range.start
  std::uint64_t page_size = kPageSize;  // larger for hugetlb (told by PROCMAP_QUERY only)

  // Pages can be taken away and given back at any time.
  bool migratable() const;
  bool readable() const;
  bool writable() const;
  // A writable private mapping of a file: .data of an executable or library, say, or private huge pages.
  bool private_file() const;
  // A shared mapping of a file that can be read.
  bool shared_file() const;
};

// Parses one line of /proc/PID/maps, without its newline. False if it is none.
bool parse_maps_line(std::string_view line, MappingInfo* info) noexcept;

class AddressSpace {
 public:
  static Result<AddressSpace> open();

  // Uses PROCMAP_QUERY where the kernel has it (6.11), else reads /proc/self/maps.
  std::optional<MappingInfo> query(std::uint64_t address) const noexcept;

  // The mapping that contains `address`, or else the next one above it. Ignores exclusions.
  std::optional<MappingInfo> query_from(std::uint64_t address) const noexcept;

  // The name of the file mapped at `address` when it was opened, if it has one still.
  bool file_name(std::uint64_t address, std::span<char> name) const noexcept;

  // Pages of `range` must never migrate: query() says so and cuts mappings at its borders. Does not bring home what has
  // migrated already. Locking: service thread, or before the threads start; others may ask meanwhile.
  void exclude(Range range);
  // Excludes what the pinned threads run on: the object that contains this code, libc, the C++ library, the formatter,
  // and a sanitizer's runtime.
  void exclude_own_objects();

  // Copies memory of this process to `destination` (pinned). Returns 0, or -errno if a page is not there: pages that
  // are away answer -EIO instead of faulting, which would make the service thread wait for itself.
  int read(std::uint64_t address, void* destination, std::uint64_t size) const noexcept;

  // Marks in `present` (page i for range.start + i pages) the pages that hold something. At most kBlockPages pages. 0
  // or -errno.
  int present_pages(Range range, PageMask* present) const noexcept;

  // In the child of a fork: these descriptors show the parent.
  void close() noexcept {
    maps_.reset();
    memory_.reset();
    pagemap_.reset();
  }

  // 0 if all pages of `range` (at most kBlockPages) are present and belong to this process alone or to its forked
  // relatives, not to a file's page cache; -EAGAIN if one is not; or -errno.
  int all_private(Range range) const noexcept;

  // All of `range` are huge pages that belong to this process. False before Linux 6.7, which does not tell.
  bool is_huge(Range range) const noexcept;

  // A page of `range` (at most kBlockPages) is a guard (MADV_GUARD_INSTALL): any access to it is an error. Always false
  // before Linux 6.15.
  bool has_guard(Range range) const noexcept;

  // Switches to the slow path of kernels before 6.11; for tests.
  void use_maps_file() noexcept { has_query_ = false; }

 private:
  enum class Which : bool { kContaining, kContainingOrNext };
  std::optional<MappingInfo> find(std::uint64_t address, Which which) const noexcept;
  std::optional<MappingInfo> find_by_ioctl(std::uint64_t address, Which which) const noexcept;
  std::optional<MappingInfo> find_in_file(std::uint64_t address, Which which, std::span<char> name) const noexcept;
  void clip_to_exclusions(std::uint64_t address, MappingInfo* info) const noexcept;

  static constexpr std::size_t kMaxExclusions = 64;
  UniqueFd maps_;
  UniqueFd memory_;
  UniqueFd pagemap_;
  bool has_query_ = false;
  std::size_t exclusion_count_ = 0;
  Range exclusions_[kMaxExclusions];  // not a container: read by the service thread, must not lie in the heap
};

}  // namespace mirrorcl::mirror
