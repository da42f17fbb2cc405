// SPDX-License-Identifier: Apache-2.0
// Policies end with the memory that they are about: whoever unmaps a range, or moves it away, takes its policy with it
// (hms/policy.h). The application's userfaultfd tells of that for ranges that are registered with it, so ranges with a
// policy are: for write protection, of which nobody makes use there, so that no access is slower. While devices have
// pages of a block it is registered for more than that.
//
// Only private anonymous memory is watched so. Mappings of files, and shared memory, are compared with what they were,
// before each launch and before each change of a policy: a mapping of the same file at the same place is taken for the
// same one.
//
// Locking: service thread only, but for files_unchanged().
#pragma once

#include <array>

#include "hms/policy.h"
#include "mirror/address_space.h"
#include "mirror/layout_watch.h"
#include "mirror/userfaultfd.h"

namespace mirrorcl::mirror {

class PolicyWatch {
 public:
  PolicyWatch(const Userfaultfd& host, const AddressSpace& space) : host_(host), space_(space) {}

  // The process's policies; their memory never migrates. Null: there are none.
  void follow(hms::PolicyTable* policies) noexcept;

  // The mirror maps the file `fd` into the application by itself, in place of private memory.
  void is_own_file(int fd) noexcept;

  // There may be policies in `range` that are not watched: new ones, or because it is no longer registered for what
  // devices have of it. Of what was unmapped between that and this call they are dropped here, but if something else
  // lies there by now they apply to that.
  void watch(Range range) noexcept;
  bool follows() const noexcept { return policies_ != nullptr; }
  // `range` has been unmapped or moved away.
  void unmapped(Range range) noexcept;

  // More files than this with a policy are not watched.
  static constexpr std::size_t kMaxFiles = 64;
  // Any thread. False: some mapping of a file with a policy may be another one.
  bool files_unchanged() noexcept { return files_.unchanged(space_); }
  // Drops the policies of those that are, as far as they lie in `range` or reach into it.
  void apply_files(Range range = {0, ~std::uint64_t{0}}) noexcept;
  // The mirror has replaced a file's private mapping by anonymous memory with its contents.
  void became_anonymous(Range range) noexcept { files_.remove(range); }

 private:
  struct Piece {
    hms::AddressRange range;
    bool has_policy;
  };
  Piece piece_at(std::uint64_t address) const noexcept;
  void register_part(Range part) noexcept;
  void watch_file(Range part, const MappingInfo& mapping) noexcept;
  bool apply_file(const LayoutWatch::Span& span) noexcept;
  void drop_holes(Range part) noexcept;

  const Userfaultfd& host_;
  const AddressSpace& space_;
  hms::PolicyTable* policies_ = nullptr;
  std::array<FileIdentity, kMaxDevices + 1> own_files_{};  // {}: none
  LayoutWatch files_;                                      // of which `devices` are none
};

}  // namespace mirrorcl::mirror
