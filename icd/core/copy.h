// SPDX-License-Identifier: Apache-2.0
// What host commands do to memory: rectangular copies and pattern fills.
#pragma once

#include <array>
#include <cstddef>

namespace mirrorcl::icd {

// A box of bytes in memory: rows of region[0] bytes, region[1] rows, region[2] slices.
struct Box {
  std::size_t offset = 0;       // of its first byte
  std::size_t row_pitch = 0;    // bytes
  std::size_t slice_pitch = 0;  // bytes

  // From an origin and pitches as in clEnqueueReadBufferRect; zero pitches mean tightly packed. False if a pitch is
  // impossible for `region`.
  static bool make(const std::size_t* origin, const std::size_t* region, std::size_t row_pitch, std::size_t slice_pitch,
                   Box* box) noexcept;
  // One byte past its last, counted as `offset` is; false on overflow.
  bool end(const std::size_t* region, std::size_t* past) const noexcept;
};

// Whether two boxes of one memory, with the same pitches and the same region, share a byte.
bool boxes_overlap(const Box& a, const Box& b, const std::size_t* region) noexcept;

void copy_box(std::byte* destination, const Box& destination_box, const std::byte* source, const Box& source_box,
              const std::array<std::size_t, 3>& region) noexcept;

// Fills `size` bytes, a multiple of `pattern_size`, which is a power of two up to 128.
void fill_pattern(std::byte* destination, std::size_t size, const std::byte* pattern,
                  std::size_t pattern_size) noexcept;

struct FillPattern {
  static constexpr std::size_t kMaxSize = 128;
  std::array<std::byte, kMaxSize> bytes;
  std::size_t size;
};
constexpr bool is_pattern_size(std::size_t size) noexcept {
  return size != 0 && size <= FillPattern::kMaxSize && (size & (size - 1)) == 0;
}

}  // namespace mirrorcl::icd
