// SPDX-License-Identifier: Apache-2.0
#include "mirror/fault_history.h"

#include <algorithm>
#include <utility>

namespace mirrorcl::mirror {
namespace {

constexpr std::uint32_t kLongestStreak = 1000;

std::int64_t distance(std::uint64_t from, std::uint64_t to) {
  return static_cast<std::int64_t>(to - from);
}

}  // namespace

unsigned FaultHistory::continued_by(std::uint64_t page) const noexcept {
  for (unsigned i = 0; i < kEntries; ++i) {
    const Entry& entry = entries_[i];
    if (entry.used == 0) continue;
    if (page == entry.above || page == entry.below) return i;
    if (entry.stream.stride_pages != 0 && distance(entry.last, page) == entry.stream.stride_pages) return i;
  }
  return kEntries;
}

unsigned FaultHistory::nearest(std::uint64_t page) const noexcept {
  unsigned found = kEntries;
  std::int64_t least = kMaxStride + 1;
  for (unsigned i = 0; i < kEntries; ++i) {
    const std::int64_t away = std::abs(distance(entries_[i].last, page));
    if (entries_[i].used == 0 || away >= least) continue;
    least = away;
    found = i;
  }
  return found;
}

unsigned FaultHistory::oldest() const noexcept {
  const auto entry = std::min_element(entries_.begin(), entries_.end(),
                                      [](const Entry& a, const Entry& b) { return a.used < b.used; });
  return static_cast<unsigned>(entry - entries_.begin());
}

void FaultHistory::extend(Entry& entry, std::int32_t stride) noexcept {
  entry.stream.streak = entry.stream.stride_pages == stride ? std::min(entry.stream.streak + 1, kLongestStreak) : 2;
  entry.stream.stride_pages = stride;
  if (std::abs(stride) != 1 || entry.stream.streak < kLong) return;
  newest_long_ = static_cast<unsigned>(&entry - entries_.data());
  const bool has_become_long = std::exchange(entry.guessed, false) || entry.stream.streak == kLong;
  if (has_become_long) guesses_allowed_ = std::min(guesses_allowed_ + 1, kEntries);
}

void FaultHistory::begin(Entry& entry) noexcept {
  const Stream& pattern = entries_[newest_long_].stream;
  entry.guessed = guesses_allowed_ > 0 && pattern.streak >= kLong;
  if (entry.guessed) --guesses_allowed_;
  entry.stream = entry.guessed ? Stream{kLong, pattern.stride_pages} : Stream{};
}

FaultHistory::Stream FaultHistory::note(std::uint64_t page) noexcept {
  unsigned at = continued_by(page);
  if (at != kEntries) {
    Entry& entry = entries_[at];
    extend(entry, page == entry.above ? 1 : page == entry.below ? -1 : entry.stream.stride_pages);
  } else if (at = nearest(page); at != kEntries && page != entries_[at].last) {
    extend(entries_[at], static_cast<std::int32_t>(distance(entries_[at].last, page)));
  } else {
    if (at == kEntries) at = oldest();
    begin(entries_[at]);
  }
  Entry& entry = entries_[at];
  entry.last = page;
  entry.above = page + 1;
  entry.below = page - 1;
  entry.used = ++clock_;
  newest_ = at;
  return entry.stream;
}

void FaultHistory::served(std::uint64_t first, std::uint64_t last) noexcept {
  entries_[newest_].above = last + 1;
  entries_[newest_].below = first - 1;
}

}  // namespace mirrorcl::mirror
