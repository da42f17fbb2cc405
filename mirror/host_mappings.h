// SPDX-License-Identifier: Apache-2.0
// Replaces mappings of the application, and takes its pages away, without touching what is somebody else's by then: a
// thread may unmap memory at any moment, and another may get the addresses. Both happens by way of the window: a new
// mapping is made and registered there, then the host agent moves it over the old one in one step; at no moment can a
// thread touch a page there that nobody watches. What cannot be excluded so is in decisions/0013.
//
// Ranges lie in one block. Locking: service thread only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mirror/address_space.h"
#include "mirror/host_agent.h"
#include "mirror/host_events.h"
#include "mirror/userfaultfd.h"

namespace mirrorcl::mirror {

class HostMappings {
 public:
  HostMappings(const Userfaultfd& host, const AddressSpace& space, HostEvents& events, HostAgent& agent)
      : host_(host), space_(space), events_(events), agent_(agent) {}

  // Instead of a file: nothing, private memory without contents.
  static constexpr int kNothing = -1;
  // Puts a registered mapping of the same protection in the place of `range`, which must lie in one mapping. It shows
  // `file`, a descriptor, from the range's own address on, and is shared. 0, -EAGAIN (events touch the range), or
  // -errno with nothing changed.
  //
  // If one application thread unmaps the range and another gets the same addresses between the agent's look and its
  // call, the other's mapping is replaced. It shows zeros then, as he expects unless he has written there already.
  int replace(Range range, HostAgent::Expect expected, int file) noexcept;
  // Drops the application's pages of `range`, which no event that was read touches. 0; -EAGAIN: they may be somebody
  // else's by now, or will be; or -errno. *in_part if it failed: some pages may have been dropped.
  int discard(Range range, bool* in_part = nullptr) noexcept;
  // Wakes all who wait for the futex at `address` in a mapping that showed `file` there. 0 or -errno.
  int wake_in_file(std::uint64_t address, int file) noexcept;

 private:
  int make_scratch(Range range, int protection, int file) noexcept;
  void drop_scratch(std::uint64_t size) noexcept;
  int move_scratch(Range range, HostAgent::Expect expected, const HostAgent::Unchanged& unchanged,
                   bool* replaced_ours) noexcept;
  int take_back(Range range, int protection) noexcept;
  int throw_away(Range range) noexcept;
  void give_back(Range range) noexcept;
  void forget_own_removals(Range range, std::size_t number) noexcept;

  const Userfaultfd& host_;
  const AddressSpace& space_;
  HostEvents& events_;
  HostAgent& agent_;
};

}  // namespace mirrorcl::mirror
