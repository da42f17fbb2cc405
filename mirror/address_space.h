// SPDX-License-Identifier: Apache-2.0
// What lies where in this process: queries of the kernel's list of mappings, of which pages are present, and reads of
// memory that never wait for a page fault of our own. Raw system calls only; no allocation after open().
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "mirror/device/operations.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {

struct MappingInfo {
  Range range;
  int protection;  // PROT_READ | PROT_WRITE | PROT_EXEC
  bool shared;
  bool anonymous;  // no file behind it
  bool excluded;   // the driver's own memory, or libraries its pinned threads depend on

  // Pages can be taken away and given back at any time.
  bool migratable() const;
  bool readable() const;
  bool writable() const;
};

// Parses one line of /proc/PID/maps, without its newline. False if it is none.
bool parse_maps_line(std::string_view line, MappingInfo* info) noexcept;

class AddressSpace {
 public:
  static Result<AddressSpace> open();

  // Uses PROCMAP_QUERY where the kernel has it (6.11), else reads /proc/self/maps.
  std::optional<MappingInfo> query(std::uint64_t address) const noexcept;

  // Pages of `range` must never migrate: query() says so and cuts mappings at its borders.
  // Locking: before the threads start.
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

  // Switches to the slow path of kernels before 6.11; for tests.
  void use_maps_file() noexcept { has_query_ = false; }

 private:
  std::optional<MappingInfo> query_ioctl(std::uint64_t address) const noexcept;
  std::optional<MappingInfo> query_file(std::uint64_t address) const noexcept;
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
