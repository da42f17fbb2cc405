// SPDX-License-Identifier: Apache-2.0
// The files that a fake device shows at parts of its address space in the place of its memory (map_file).
//
// Locking: the device's. Made by the mirror's thread, so it allocates nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "mirror/device/operations.h"

namespace mirrorcl::mirror {

class FakeFiles {
 public:
  struct Mapping {
    Range range;  // of size 0: unused
    int fd;
    std::uint64_t offset;
  };

  // What `address` shows, or null.
  const Mapping* at(std::uint64_t address) const noexcept;
  std::size_t size() const noexcept;
  // Shows `fd`, of which it makes a copy, from `offset` on in the place of whatever `range` showed. 0 or -ENOSPC.
  int map(Range range, int fd, std::uint64_t offset) noexcept;
  // Nothing of `range` shows a file any more.
  void cut(Range range) noexcept;
  void clear() noexcept { cut({0, ~std::uint64_t{0}}); }

 private:
  std::array<Mapping, 512> mappings_{};
};

}  // namespace mirrorcl::mirror
