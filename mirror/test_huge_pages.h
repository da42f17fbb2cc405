// SPDX-License-Identifier: Apache-2.0
// Huge pages for tests.
#pragma once

#include <fstream>

namespace mirrorcl::mirror {

// Lets the kernel make huge pages when they are wanted, where this process may, for as long as it lives.
class HugePagesOnDemand {
 public:
  HugePagesOnDemand() {
    std::ifstream(kPath) >> before_;
    std::ofstream(kPath) << before_ + 8;
  }
  ~HugePagesOnDemand() { std::ofstream(kPath) << before_; }

 private:
  static constexpr const char* kPath = "/proc/sys/vm/nr_overcommit_hugepages";
  long before_ = 0;
};

}  // namespace mirrorcl::mirror
