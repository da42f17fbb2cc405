// SPDX-License-Identifier: Apache-2.0
#include "icd/core/copy.h"

#include <algorithm>
#include <cstring>

namespace mirrorcl::icd {

bool Box::make(const std::size_t* origin, const std::size_t* region, std::size_t row_pitch, std::size_t slice_pitch,
               Box* box) noexcept {
  if (row_pitch == 0) row_pitch = region[0];
  if (row_pitch < region[0]) return false;
  std::size_t smallest_slice = 0;
  if (__builtin_mul_overflow(region[1], row_pitch, &smallest_slice)) return false;
  if (slice_pitch == 0) slice_pitch = smallest_slice;
  if (slice_pitch < smallest_slice || slice_pitch % row_pitch != 0) return false;
  std::size_t rows = 0;
  std::size_t slices = 0;
  if (__builtin_mul_overflow(origin[1], row_pitch, &rows) || __builtin_mul_overflow(origin[2], slice_pitch, &slices) ||
      __builtin_add_overflow(rows, slices, &rows) || __builtin_add_overflow(rows, origin[0], &rows)) {
    return false;
  }
  *box = {rows, row_pitch, slice_pitch};
  return true;
}

bool Box::end(const std::size_t* region, std::size_t* past) const noexcept {
  std::size_t rows = 0;
  std::size_t slices = 0;
  return !__builtin_mul_overflow(region[1] - 1, row_pitch, &rows) &&
         !__builtin_mul_overflow(region[2] - 1, slice_pitch, &slices) && !__builtin_add_overflow(rows, slices, past) &&
         !__builtin_add_overflow(*past, region[0], past) && !__builtin_add_overflow(*past, offset, past);
}

bool boxes_overlap(const Box& a, const Box& b, const std::size_t* region) noexcept {
  // Seen modulo `pitch`, both occupy one interval of `length` bytes: if those are disjoint, so are the boxes.
  const auto apart = [&](std::size_t pitch, std::size_t length) {
    const std::size_t from_a = (b.offset % pitch + pitch - a.offset % pitch) % pitch;
    const std::size_t from_b = (pitch - from_a) % pitch;
    return from_a >= length && from_b >= length;
  };
  std::size_t a_end = 0;
  std::size_t b_end = 0;
  if (!a.end(region, &a_end) || !b.end(region, &b_end)) return true;
  if (a_end <= b.offset || b_end <= a.offset) return false;
  return !apart(a.row_pitch, region[0]) && !apart(a.slice_pitch, (region[1] - 1) * a.row_pitch + region[0]);
}

void copy_box(std::byte* destination, const Box& destination_box, const std::byte* source, const Box& source_box,
              const std::array<std::size_t, 3>& region) noexcept {
  for (std::size_t slice = 0; slice < region[2]; ++slice) {
    std::byte* to = destination + destination_box.offset + slice * destination_box.slice_pitch;
    const std::byte* from = source + source_box.offset + slice * source_box.slice_pitch;
    if (destination_box.row_pitch == region[0] && source_box.row_pitch == region[0]) {
      std::memmove(to, from, region[0] * region[1]);
      continue;
    }
    for (std::size_t row = 0; row < region[1]; ++row) {
      std::memmove(to + row * destination_box.row_pitch, from + row * source_box.row_pitch, region[0]);
    }
  }
}

void fill_pattern(std::byte* destination, std::size_t size, const std::byte* pattern,
                  std::size_t pattern_size) noexcept {
  if (pattern_size == 1) {
    std::memset(destination, static_cast<int>(*pattern), size);
    return;
  }
  // The pattern once, then what is there already, doubling up to a size that stays in the nearest cache.
  constexpr std::size_t kBlock = 4096;
  std::size_t done = std::min(size, pattern_size);
  std::memcpy(destination, pattern, done);
  while (done < size) {
    const std::size_t chunk = std::min({done, kBlock, size - done});
    std::memcpy(destination + done, destination, chunk);
    done += chunk;
  }
}

}  // namespace mirrorcl::icd
