// SPDX-License-Identifier: Apache-2.0
// One bit per 4 KiB page of a 2 MiB block, and runs of pages in it.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace mirrorcl::mirror {

inline constexpr std::uint64_t kPageSize = 4096;
inline constexpr unsigned kBlockPages = 512;
inline constexpr std::uint64_t kBlockSize = kBlockPages * kPageSize;

constexpr std::uint64_t page_down(std::uint64_t address) {
  return address & ~(kPageSize - 1);
}
constexpr std::uint64_t page_up(std::uint64_t address) {
  return page_down(address + kPageSize - 1);
}
constexpr std::uint64_t block_down(std::uint64_t address) {
  return address & ~(kBlockSize - 1);
}
constexpr unsigned page_in_block(std::uint64_t address) {
  return static_cast<unsigned>((address & (kBlockSize - 1)) / kPageSize);
}

// Pages [first, first + count) of a block.
struct PageRun {
  unsigned first;
  unsigned count;
  constexpr unsigned end() const { return first + count; }
  constexpr bool contains(unsigned page) const { return page >= first && page < end(); }
  constexpr bool operator==(const PageRun&) const = default;
};

class PageMask {
 public:
  constexpr PageMask() = default;
  constexpr explicit PageMask(PageRun run) { set(run); }

  static constexpr PageMask all() { return PageMask(PageRun{0, kBlockPages}); }

  constexpr bool test(unsigned page) const { return (words_[page / 64] >> (page % 64) & 1) != 0; }
  constexpr void set(PageRun run) {
    for_words(run, [](std::uint64_t& word, std::uint64_t bits) { word |= bits; });
  }
  constexpr void clear(PageRun run) {
    for_words(run, [](std::uint64_t& word, std::uint64_t bits) { word &= ~bits; });
  }
  constexpr void set(unsigned page) { words_[page / 64] |= std::uint64_t{1} << (page % 64); }
  constexpr void clear(unsigned page) { words_[page / 64] &= ~(std::uint64_t{1} << (page % 64)); }
  constexpr void reset() { words_ = {}; }

  constexpr bool none() const {
    return std::all_of(words_.begin(), words_.end(), [](std::uint64_t word) { return word == 0; });
  }
  constexpr bool any() const { return !none(); }
  constexpr unsigned count() const {
    unsigned bits = 0;
    for (std::uint64_t word : words_) bits += static_cast<unsigned>(std::popcount(word));
    return bits;
  }
  constexpr unsigned count(PageRun run) const { return (*this & PageMask(run)).count(); }
  constexpr bool all_of(PageRun run) const { return count(run) == run.count; }
  constexpr bool none_of(PageRun run) const { return (*this & PageMask(run)).none(); }

  // The first set (clear) page at or after `from`; kBlockPages if there is none.
  constexpr unsigned find_set(unsigned from) const { return find(from, 0); }
  constexpr unsigned find_clear(unsigned from) const { return find(from, ~std::uint64_t{0}); }

  // The first run of set pages at or after `from`; its count is 0 if there is none.
  constexpr PageRun next_run(unsigned from) const {
    unsigned first = find_set(from);
    if (first == kBlockPages) return {kBlockPages, 0};
    return {first, find_clear(first) - first};
  }

  constexpr PageMask operator&(const PageMask& other) const {
    PageMask result;
    for (unsigned i = 0; i < kWords; ++i) result.words_[i] = words_[i] & other.words_[i];
    return result;
  }
  constexpr PageMask operator|(const PageMask& other) const {
    PageMask result;
    for (unsigned i = 0; i < kWords; ++i) result.words_[i] = words_[i] | other.words_[i];
    return result;
  }
  constexpr PageMask operator~() const {
    PageMask result;
    for (unsigned i = 0; i < kWords; ++i) result.words_[i] = ~words_[i];
    return result;
  }
  constexpr PageMask& operator|=(const PageMask& other) { return *this = *this | other; }
  constexpr PageMask& operator&=(const PageMask& other) { return *this = *this & other; }
  constexpr bool operator==(const PageMask&) const = default;

 private:
  static constexpr unsigned kWords = kBlockPages / 64;

  template <typename F>
  constexpr void for_words(PageRun run, F change) {
    for (unsigned page = run.first; page < run.end();) {
      unsigned bit = page % 64;
      unsigned bits = std::min(64 - bit, run.end() - page);
      std::uint64_t ones = bits == 64 ? ~std::uint64_t{0} : ((std::uint64_t{1} << bits) - 1) << bit;
      change(words_[page / 64], ones);
      page += bits;
    }
  }
  constexpr unsigned find(unsigned from, std::uint64_t flip) const {
    for (unsigned page = from; page < kBlockPages; page = (page / 64 + 1) * 64) {
      std::uint64_t word = (words_[page / 64] ^ flip) >> (page % 64);
      if (word != 0) return page + static_cast<unsigned>(std::countr_zero(word));
    }
    return kBlockPages;
  }

  std::array<std::uint64_t, kWords> words_{};
};

}  // namespace mirrorcl::mirror
