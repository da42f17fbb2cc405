// SPDX-License-Identifier: Apache-2.0
// Which ranges of a device's address space are device memory that it never faults on, and in whose memory file they
// lie. Page aligned, sorted; neighbours in one file are one range.
#pragma once

#include <vector>

#include "mirror/device/operations.h"

namespace mirrorcl::device {

struct SharedRange {
  mirror::Range range;
  int memory;  // the memory file that it lies in, at its address; stays its owner's
};

class SharedRanges {
 public:
  // From now on `range` lies in `memory`, whatever was there before.
  void add(mirror::Range range, int memory);
  void remove(mirror::Range range);

  auto begin() const noexcept { return ranges_.begin(); }
  auto end() const noexcept { return ranges_.end(); }

 private:
  std::vector<SharedRange> ranges_;
};

}  // namespace mirrorcl::device
