// SPDX-License-Identifier: Apache-2.0
// What tests share: a table of policies that a mirror follows.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <memory_resource>
#include <utility>

#include "base/unique_fd.h"
#include "hms/policy.h"
#include "mirror/mirror.h"

namespace mirrorcl::mirror {

// `mirror` outlives it, and follows no policies afterwards. Their memory never moves.
class FollowedPolicies {
 public:
  explicit FollowedPolicies(Mirror& mirror) : mirror_(mirror) {
    EXPECT_NE(memory_.address(), MAP_FAILED);
    mirror.never_migrate({reinterpret_cast<std::uint64_t>(memory_.address()), kSize});
    mirror.follow_policies(table_.get());
  }
  ~FollowedPolicies() { mirror_.follow_policies(nullptr); }
  FollowedPolicies(const FollowedPolicies&) = delete;
  FollowedPolicies& operator=(const FollowedPolicies&) = delete;

  hms::PolicyTable& table() const { return *table_; }
  // As hbind() does it.
  void set(Range range, const hms::PolicyChange& change) {
    mirror_.drain_events();
    ASSERT_EQ(table_->change({range.start, range.end()}, change), 0);
    mirror_.watch_policies(range);
  }
  static hms::PolicyChange read_mostly() {
    hms::PolicyChange change;
    change.read_mostly = true;
    return change;
  }

 private:
  static constexpr std::size_t kSize = std::size_t{16} << 20;

  Mirror& mirror_;
  Mapping memory_{mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
                  kSize};
  std::pmr::monotonic_buffer_resource resource_{memory_.address(), kSize, std::pmr::null_memory_resource()};
  hms::PolicyTable::Pointer table_ = std::move(*hms::PolicyTable::create(&resource_));
};

}  // namespace mirrorcl::mirror
