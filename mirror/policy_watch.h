// SPDX-License-Identifier: Apache-2.0
// Policies end with the memory that they are about: whoever unmaps a range, or moves it away, takes its policy with it
// (hms/policy.h). The application's userfaultfd tells of that for ranges that are registered with it, so ranges with a
// policy are: for write protection, of which nobody makes use there, so that no access is slower. While devices have
// pages of a block it is registered for more than that.
//
// Only private anonymous memory is watched so. The policy of a file's mapping stays until it is changed.
//
// Locking: service thread only.
#pragma once

#include "hms/policy.h"
#include "mirror/address_space.h"
#include "mirror/userfaultfd.h"

namespace mirrorcl::mirror {

class PolicyWatch {
 public:
  PolicyWatch(const Userfaultfd& host, const AddressSpace& space) : host_(host), space_(space) {}

  // The process's policies; their memory never migrates. Null: there are none.
  void follow(hms::PolicyTable* policies) noexcept { policies_ = policies; }

  // There may be policies in `range` that are not watched: new ones, or because it is no longer registered for what
  // devices have of it. Of what was unmapped between that and this call they are dropped here, but if something else
  // lies there by now they apply to that.
  void watch(Range range) noexcept;
  bool follows() const noexcept { return policies_ != nullptr; }
  // `range` has been unmapped or moved away.
  void unmapped(Range range) noexcept;

 private:
  struct Piece {
    hms::AddressRange range;
    bool has_policy;
  };
  Piece piece_at(std::uint64_t address) const noexcept;
  void register_part(Range part) noexcept;
  void drop_holes(Range part) noexcept;

  const Userfaultfd& host_;
  const AddressSpace& space_;
  hms::PolicyTable* policies_ = nullptr;
};

}  // namespace mirrorcl::mirror
