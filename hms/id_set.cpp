// SPDX-License-Identifier: Apache-2.0
#include "hms/id_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>

namespace mirrorcl::hms {
namespace {

constexpr std::uint32_t kWordBits = 64;

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

std::optional<std::uint32_t> parse_id(std::string_view text) {
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc{} || end != text.data() + text.size() || id > IdSet::kMax) return std::nullopt;
  return id;
}

}  // namespace

std::optional<IdSet> IdSet::parse(std::string_view text) {
  IdSet set;
  text = trim(text);
  if (text.empty()) return set;
  for (bool more = true; more;) {
    const auto comma = text.find(',');
    const std::string_view item = trim(text.substr(0, comma));
    const auto dash = item.find('-');
    const auto first = parse_id(item.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : parse_id(item.substr(dash + 1));
    if (!first || !last || *last < *first) return std::nullopt;
    for (std::uint32_t id = *first; id <= *last; ++id) set.add(id);
    more = comma != std::string_view::npos;
    if (more) text.remove_prefix(comma + 1);
  }
  return set;
}

IdSet IdSet::range(std::uint32_t first, std::uint32_t last) {
  IdSet set;
  for (std::uint32_t id = first; id <= last; ++id) set.add(id);
  return set;
}

void IdSet::add(std::uint32_t id) {
  const std::size_t word = id / kWordBits;
  if (word >= words_.size()) words_.resize(word + 1);
  words_[word] |= std::uint64_t{1} << (id % kWordBits);
}

bool IdSet::contains(std::uint32_t id) const noexcept {
  const std::size_t word = id / kWordBits;
  return word < words_.size() && ((words_[word] >> (id % kWordBits)) & 1) != 0;
}

std::size_t IdSet::count() const noexcept {
  std::size_t n = 0;
  for (const auto word : words_) n += static_cast<std::size_t>(std::popcount(word));
  return n;
}

std::uint32_t IdSet::first() const noexcept {
  std::size_t word = 0;
  while (words_[word] == 0) ++word;
  return static_cast<std::uint32_t>(word * kWordBits) + static_cast<std::uint32_t>(std::countr_zero(words_[word]));
}

bool IdSet::intersects(const IdSet& other) const noexcept {
  const std::size_t n = std::min(words_.size(), other.words_.size());
  for (std::size_t i = 0; i < n; ++i) {
    if ((words_[i] & other.words_[i]) != 0) return true;
  }
  return false;
}

bool IdSet::includes(const IdSet& other) const noexcept {
  return common(other) == other.count();
}

std::size_t IdSet::common(const IdSet& other) const noexcept {
  const std::size_t n = std::min(words_.size(), other.words_.size());
  std::size_t result = 0;
  for (std::size_t i = 0; i < n; ++i) result += static_cast<std::size_t>(std::popcount(words_[i] & other.words_[i]));
  return result;
}

IdSet& IdSet::operator|=(const IdSet& other) {
  if (words_.size() < other.words_.size()) words_.resize(other.words_.size());
  for (std::size_t i = 0; i < other.words_.size(); ++i) words_[i] |= other.words_[i];
  return *this;
}

std::vector<std::uint32_t> IdSet::members() const {
  std::vector<std::uint32_t> ids;
  for (std::size_t i = 0; i < words_.size(); ++i) {
    for (std::uint64_t word = words_[i]; word != 0; word &= word - 1) {
      ids.push_back(static_cast<std::uint32_t>(i * kWordBits) + static_cast<std::uint32_t>(std::countr_zero(word)));
    }
  }
  return ids;
}

std::string IdSet::to_string() const {
  std::string text;
  const auto ids = members();
  for (std::size_t i = 0; i < ids.size();) {
    std::size_t last = i;
    while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += last == i ? fmt::format("{}", ids[i]) : fmt::format("{}-{}", ids[i], ids[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace mirrorcl::hms
