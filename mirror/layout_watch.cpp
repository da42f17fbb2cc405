// SPDX-License-Identifier: Apache-2.0
#include "mirror/layout_watch.h"

#include <sys/mman.h>

#include "base/log.h"

namespace mirrorcl::mirror {
namespace {

constexpr int kAccess = PROT_READ | PROT_WRITE;
// Beside a protection, where spans are stored.
constexpr std::uint64_t kPrivate = std::uint64_t{1} << 31;

// The part of `span` that lies in [start, end).
LayoutWatch::Span part_of(const LayoutWatch::Span& span, std::uint64_t start, std::uint64_t end) noexcept {
  LayoutWatch::Span part = span;
  part.range = {start, end - start};
  if (span.is_file()) part.file_offset += start - span.range.start;
  return part;
}

bool continues(const LayoutWatch::Span& left, const LayoutWatch::Span& right) noexcept {
  return left.range.end() == right.range.start && left.protection == right.protection && left.file == right.file &&
         left.devices == right.devices && left.is_private == right.is_private &&
         (!left.is_file() || left.file_offset + left.range.size == right.file_offset);
}

}  // namespace

bool LayoutWatch::Span::matches(const MappingInfo& mapping) const noexcept {
  if ((mapping.protection & kAccess) != (protection & kAccess)) return false;
  return !is_file() || (mapping.shared != is_private && mapping.file == file &&
                        mapping.file_offset - mapping.range.start == file_offset - range.start);
}

LayoutWatch::Span LayoutWatch::Words::read() const noexcept {
  // Acquire, so that the sequence is read again after them.
  const auto word = [this](std::size_t i) { return words[i].load(std::memory_order_acquire); };
  return {{word(0), word(1)},
          static_cast<int>(word(2) & (kPrivate - 1)),
          {static_cast<std::uint32_t>(word(3) >> 32), static_cast<std::uint32_t>(word(3)), word(4)},
          word(5),
          static_cast<DeviceSet>(word(2) >> 32),
          (word(2) & kPrivate) != 0};
}

void LayoutWatch::Words::write(const Span& span) noexcept {
  const auto set = [this](std::size_t i, std::uint64_t value) { words[i].store(value, std::memory_order_release); };
  set(0, span.range.start);
  set(1, span.range.size);
  set(2, std::uint64_t{span.devices} << 32 | (span.is_private ? kPrivate : 0) |
             static_cast<std::uint32_t>(span.protection));
  set(3, std::uint64_t{span.file.device_major} << 32 | span.file.device_minor);
  set(4, span.file.inode);
  set(5, span.file_offset);
}

void LayoutWatch::end_change() noexcept {
  sequence_.fetch_add(1, std::memory_order_release);
  has_read_only_ = false;
  has_files_ = false;
  for (std::size_t i = 0; i < size(); ++i) {
    const Span span = at(i);
    has_files_ = has_files_ || span.is_file();
    has_read_only_ = has_read_only_ || (!span.is_file() && (span.protection & PROT_WRITE) == 0);
  }
}

void LayoutWatch::insert(std::size_t index, const Span& span) noexcept {
  const std::size_t count = size();
  if (count == kMaxSpans) return;
  for (std::size_t i = count; i > index; --i) spans_[i].write(at(i - 1));
  spans_[index].write(span);
  count_.store(count + 1, std::memory_order_release);
}

void LayoutWatch::erase(std::size_t index) noexcept {
  const std::size_t count = size();
  for (std::size_t i = index; i + 1 < count; ++i) spans_[i].write(at(i + 1));
  count_.store(count - 1, std::memory_order_release);
}

void LayoutWatch::remove(Range range) noexcept {
  for (std::size_t i = 0; i < size();) {
    const Span span = at(i);
    if (span.range.end() <= range.start) {
      ++i;
      continue;
    }
    if (span.range.start >= range.end()) return;
    begin_change();
    const bool left = span.range.start < range.start;
    const bool right = span.range.end() > range.end();
    if (left) spans_[i].write(part_of(span, span.range.start, range.start));
    if (right) {
      const Span rest = part_of(span, range.end(), span.range.end());
      if (left) {
        insert(i + 1, rest);
      } else {
        spans_[i].write(rest);
      }
    }
    if (!left && !right) erase(i);
    end_change();
    if (left || right) ++i;
  }
}

bool LayoutWatch::add(const Span& span) noexcept {
  for (std::size_t i = 0; i < size(); ++i) {
    // Registered again, as a rule: nothing to do.
    const Span old = at(i);
    if (old.range.start <= span.range.start && old.range.end() >= span.range.end() &&
        continues(part_of(old, old.range.start, span.range.start), span)) {
      return true;
    }
  }
  remove(span.range);
  if (size() >= kMaxSpans / 8 * 7) {
    if (!told_full_) {
      log_warning("devices use memory of more than {} mappings: changes of the protection of some are not noticed",
                  size());
    }
    told_full_ = true;
    return false;
  }
  std::size_t index = 0;
  while (index < size() && at(index).range.start < span.range.start) ++index;
  begin_change();
  Span merged = span;
  if (index > 0 && continues(at(index - 1), merged)) {
    merged = part_of(at(index - 1), at(index - 1).range.start, merged.range.end());
    erase(--index);
  }
  if (index < size() && continues(merged, at(index))) {
    merged.range.size += at(index).range.size;
    erase(index);
  }
  insert(index, merged);
  end_change();
  return true;
}

DeviceSet LayoutWatch::devices_of(Range range) const noexcept {
  DeviceSet devices = 0;
  for (std::size_t i = 0; has_files_ && i < size(); ++i) {
    const Span span = at(i);
    if (span.range.start < range.end() && span.range.end() > range.start) devices |= span.devices;
  }
  return devices;
}

bool LayoutWatch::queries_match(const AddressSpace& space, const Span& span, unsigned* queries) noexcept {
  for (std::uint64_t address = span.range.start; address < span.range.end();) {
    ++*queries;
    const auto mapping = space.query_from(address);
    if (!mapping || mapping->range.start >= span.range.end()) return !span.is_file();
    // Holes in other spans are told by userfaultfd, or were there from the beginning.
    if (mapping->range.start > address && span.is_file()) return false;
    if (!span.matches(*mapping)) return false;
    address = mapping->range.end();
  }
  return true;
}

bool LayoutWatch::unchanged(const AddressSpace& space) noexcept {
  constexpr int kAttempts = 3;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::uint32_t sequence = sequence_.load(std::memory_order_acquire);
    const std::size_t count = count_.load(std::memory_order_acquire);
    if (count == 0) return true;
    if ((sequence & 1) != 0) continue;
    const std::size_t first = next_.load(std::memory_order_relaxed);
    std::size_t next = count;  // the first span that is left for the next call
    unsigned queries = 0;
    bool torn = false;
    for (std::size_t i = 0; i < count && !torn; ++i) {
      const std::size_t index = (first + i) % count;
      const Span span = at(index);
      torn = sequence_.load(std::memory_order_relaxed) != sequence;
      unsigned none = 0;
      if (torn || (!span.is_file() && next != count)) continue;
      if (!queries_match(space, span, span.is_file() ? &none : &queries)) return false;
      if (queries >= kMaxQueries && next == count) next = (index + 1) % count;
    }
    if (torn) continue;
    if (next != count) next_.store(next, std::memory_order_relaxed);
    return true;
  }
  return false;
}

}  // namespace mirrorcl::mirror
