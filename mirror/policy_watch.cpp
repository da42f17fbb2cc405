// SPDX-License-Identifier: Apache-2.0
#include "mirror/policy_watch.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "base/log.h"
#include "base/raw_syscall.h"

namespace mirrorcl::mirror {

// A short look, for changes wait for readers.
PolicyWatch::Piece PolicyWatch::piece_at(std::uint64_t address) const noexcept {
  const hms::PolicyReader reader(*policies_);
  const auto found = reader.find(address);
  return {found.range, !found.policy.empty()};
}

void PolicyWatch::follow(hms::PolicyTable* policies) noexcept {
  policies_ = policies;
  files_.remove({0, ~std::uint64_t{0}});
}

void PolicyWatch::is_own_file(int fd) noexcept {
  struct stat status {};
  if (raw_syscall(SYS_fstat, fd, &status) != 0) return;
  const FileIdentity file{major(status.st_dev), minor(status.st_dev), status.st_ino};
  // A device that is attached again has the same; one that has left leaves a place.
  for (FileIdentity& own : own_files_) {
    if (own == file) return;
  }
  std::move_backward(own_files_.begin(), own_files_.end() - 1, own_files_.end());
  own_files_[0] = file;
}

void PolicyWatch::watch(Range range) noexcept {
  if (policies_ == nullptr) return;
  apply_files(range);  // what shows another file by now is noticed before it is forgotten
  files_.remove(range);
  for (std::uint64_t address = range.start; address < range.end();) {
    const Piece piece = piece_at(address);
    const std::uint64_t end = std::min(range.end(), piece.range.end);
    if (piece.has_policy) {
      register_part({address, end - address});
      drop_holes({address, end - address});
    }
    address = end;
  }
}

void PolicyWatch::unmapped(Range range) noexcept {
  files_.remove(range);
  if (policies_ != nullptr) policies_->drop_unmapped({range.start, range.end()});
}

void PolicyWatch::watch_file(Range part, const MappingInfo& mapping) noexcept {
  if (std::find(own_files_.begin(), own_files_.end(), mapping.file) != own_files_.end()) return;
  if (files_.size() >= kMaxFiles) {
    log_debug("the policy of {:#x}-{:#x} outlives its memory: more than {} files have one", part.start, part.end(),
              kMaxFiles);
    return;
  }
  (void)files_.add({part, mapping.protection, mapping.file, mapping.file_offset + (part.start - mapping.range.start), 0,
                    !mapping.shared});
}

void PolicyWatch::apply_files(Range range) noexcept {
  // Each change may rearrange the spans.
  for (std::size_t i = 0; i < files_.size();) {
    const LayoutWatch::Span span = files_.at(i);
    const bool concerned = span.range.start < range.end() && range.start < span.range.end();
    if (concerned && apply_file(span)) {
      i = 0;
    } else {
      ++i;
    }
  }
}

// Whether anything was different.
bool PolicyWatch::apply_file(const LayoutWatch::Span& span) noexcept {
  for (std::uint64_t address = span.range.start; address < span.range.end();) {
    const auto mapping = space_.query_from(address);
    const std::uint64_t start =
        mapping ? std::clamp(mapping->range.start, address, span.range.end()) : span.range.end();
    const std::uint64_t end = mapping ? std::min(mapping->range.end(), span.range.end()) : span.range.end();
    if (!mapping || start > address) {
      unmapped({address, start - address});
      return true;
    }
    if (!span.matches(*mapping)) {
      const Range part{start, end - start};
      LayoutWatch::Span now = span;
      now.protection = mapping->protection;
      // Another protection makes no other mapping.
      if (!now.matches(*mapping)) {
        unmapped(part);
      } else {
        files_.remove(part);
        watch_file(part, *mapping);
      }
      return true;
    }
    address = end;
  }
  return false;
}

// After register_part(), so that what is unmapped from then on is told.
void PolicyWatch::drop_holes(Range part) noexcept {
  for (std::uint64_t address = part.start; address < part.end();) {
    const auto mapping = space_.query_from(address);
    const std::uint64_t start = mapping ? std::min(mapping->range.start, part.end()) : part.end();
    if (start > address) unmapped({address, start - address});
    address = mapping ? mapping->range.end() : part.end();
  }
}

void PolicyWatch::register_part(Range part) noexcept {
  for (std::uint64_t address = part.start; address < part.end();) {
    const auto mapping = space_.query_from(address);
    if (!mapping || mapping->range.start >= part.end()) return;
    const std::uint64_t start = std::max(address, mapping->range.start);
    const std::uint64_t end = std::min(part.end(), mapping->range.end());
    if (mapping->anonymous && !mapping->shared) {
      // What is registered for more stays so.
      const int error = host_.register_range({start, end - start}, kTrackWrites);
      if (error != 0) log_debug("the policy of {:#x}-{:#x} outlives its memory: error {}", start, end, -error);
    } else if (mapping->file != FileIdentity{}) {
      watch_file({start, end - start}, *mapping);
    }
    address = end;
  }
}

}  // namespace mirrorcl::mirror
