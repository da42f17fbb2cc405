// SPDX-License-Identifier: Apache-2.0
// What devices rely on in the application's list of mappings and the kernel tells nobody about: userfaultfd has no
// event for mprotect, and none at all for shared mappings of regular files. So the mappings that devices have pages of
// are compared with what they were, before each launch: one query of the kernel (0.3 us) per mapping.
//
// Locking: the service thread changes it; any thread may ask unchanged().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "mirror/address_space.h"
#include "mirror/block.h"

namespace mirrorcl::mirror {

class LayoutWatch {
 public:
  static constexpr std::size_t kMaxSpans = 512;
  // Queries of one call of unchanged() for memory that shows no file. What is left over is compared by the next calls.
  // Files are always compared: a device that went on using one that is gone would lose data, not only break a
  // protection.
  static constexpr unsigned kMaxQueries = 64;

  // A range that is mapped with `protection` (of which only reading and writing count) and, if `file` is not empty,
  // shows that file from `file_offset` on in a shared mapping, which `devices` map too; or in a private one.
  struct Span {
    Range range;
    int protection;
    FileIdentity file{};
    std::uint64_t file_offset = 0;
    DeviceSet devices = 0;
    bool is_private = false;

    bool is_file() const { return file != FileIdentity{}; }
    // Whether `mapping` is, where the two overlap, what this span says.
    bool matches(const MappingInfo& mapping) const noexcept;
  };

  // --- service thread
  // Replaces what is known of the span's range. False if there is no room: the last eighth is for spans that are split.
  bool add(const Span& span) noexcept;
  void remove(Range range) noexcept;
  std::size_t size() const noexcept { return count_.load(std::memory_order_relaxed); }
  // A span without write permission that shows no file is among them.
  bool has_read_only() const noexcept { return has_read_only_; }
  bool has_files() const noexcept { return has_files_; }
  // The devices that map files in `range`.
  DeviceSet devices_of(Range range) const noexcept;
  Span at(std::size_t index) const noexcept { return spans_[index].read(); }

  // --- any thread
  // False: something has changed, or may have.
  bool unchanged(const AddressSpace& space) noexcept;

 private:
  // Of a span, in words that can be read while they are written.
  struct Words {
    std::array<std::atomic<std::uint64_t>, 6> words{};
    Span read() const noexcept;
    void write(const Span& span) noexcept;
  };
  static bool queries_match(const AddressSpace& space, const Span& span, unsigned* queries) noexcept;
  void begin_change() noexcept { sequence_.fetch_add(1, std::memory_order_acq_rel); }
  void end_change() noexcept;
  void insert(std::size_t index, const Span& span) noexcept;
  void erase(std::size_t index) noexcept;

  std::atomic<std::uint32_t> sequence_{0};  // odd while the spans are being changed
  std::atomic<std::size_t> count_{0};
  std::atomic<std::size_t> next_{0};  // the first span of the next comparison
  bool has_read_only_ = false;
  bool has_files_ = false;
  bool told_full_ = false;
  std::array<Words, kMaxSpans> spans_{};  // ascending, disjoint
};

}  // namespace mirrorcl::mirror
