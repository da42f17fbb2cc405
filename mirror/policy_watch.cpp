// SPDX-License-Identifier: Apache-2.0
#include "mirror/policy_watch.h"

#include <algorithm>

#include "base/log.h"

namespace mirrorcl::mirror {

// A short look, for changes wait for readers.
PolicyWatch::Piece PolicyWatch::piece_at(std::uint64_t address) const noexcept {
  const hms::PolicyReader reader(*policies_);
  const auto found = reader.find(address);
  return {found.range, !found.policy.empty()};
}

void PolicyWatch::watch(Range range) noexcept {
  if (policies_ == nullptr) return;
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
  if (policies_ != nullptr) policies_->drop_unmapped({range.start, range.end()});
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
    }
    address = end;
  }
}

}  // namespace mirrorcl::mirror
