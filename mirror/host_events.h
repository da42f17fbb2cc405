// SPDX-License-Identifier: Apache-2.0
// What A's userfaultfd has to say: faults of application threads on pages that are away, and events of the address
// space (unmap, remap, remove). Reading and applying are separate, because events must also be read while an operation
// waits for the host agent, whose own system call raises some.
//
// Locking: service thread only, but for wait_settled().
#pragma once

#include <cstdint>
#include <memory_resource>
#include <vector>

#include "base/futex.h"
#include "mirror/userfaultfd.h"

namespace mirrorcl::mirror {

struct HostEvent {
  enum class Kind : std::uint8_t { kUnmap, kRemap, kRemove };
  Kind kind;
  Range range;
  std::uint64_t to;  // kRemap: where the range is now
};

struct HostFault {
  std::uint64_t address;  // page aligned
  bool write;
  bool write_protected;      // the page is there, but write-protected by us
  std::uint32_t thread = 0;  // whose access it is
};

class HostEvents {
 public:
  HostEvents(const Userfaultfd& host, std::pmr::memory_resource* memory)
      : host_(host), events_(memory), faults_(memory) {
    events_.reserve(256);
    faults_.reserve(256);
  }

  // Takes everything that is pending into the two queues. Never blocks.
  void read_pending() noexcept;
  // The same up to the next event: the one thread that waits for that to be read goes on.
  void read_next() noexcept;

  int fd() const noexcept { return host_.fd(); }
  bool has_events() const { return next_event_ < events_.size(); }
  HostEvent take_event();
  std::pmr::vector<HostFault>& faults() { return faults_; }
  // An event that is read but not applied touches `range`.
  bool pending_on(Range range) const;

  // Makes wait_settled() wait until settle(), as reading an event does. False if it waits already.
  bool unsettle() noexcept;
  // What an event means is not known yet: settle() does nothing.
  void hold(bool held) noexcept { held_ = held; }
  bool is_held() const noexcept { return held_; }
  // Everything read so far has been applied: lets wait_settled() return. Does nothing while events are queued.
  void settle() noexcept;
  // Any thread: returns once all events have been applied whose system calls had changed something before this call,
  // whether they have returned or not. A system call and an atomic load if there are none.
  void wait_settled() noexcept {
    if (host_.events_on_their_way()) wait_read();
    if ((sequence_.load(std::memory_order_seq_cst) & 1) != 0) wait_settled_slowly();
  }

  // Between these two calls the host agent replaces `target` with `scratch`, a range of the window: unmap events of
  // that are recognised and not queued. end_operation says whether the target's own was seen; if not, somebody else had
  // unmapped it before. If the change was not `made` after all, the event was the application's, and is queued in its
  // place.
  void begin_operation(Range target, Range scratch);
  bool end_operation(bool made = true);
  // Between this call and end_operation() the host agent takes the pages of `target` to `scratch`: the event of that is
  // recognised and not queued. end_operation says whether it was seen; if not, `target` was not registered.
  void begin_taking(Range target, Range scratch);

  // How many events are read and not applied. The next one that is read will have this number.
  std::size_t queued() const { return events_.size(); }
  // Takes the longest remove event that begins where `target` does and lies in it out of those from `*number` on, and
  // sets *number to that of the next. Where it ended; 0: there is none.
  std::uint64_t take_removal(Range target, std::size_t* number);

 private:
  void wait_read() const noexcept;
  void wait_settled_slowly() noexcept;
  void take_message(const uffd_msg& message);
  void queue_event(HostEvent event);

  const Userfaultfd& host_;
  // Odd from before events are read until they have been applied.
  FutexWord sequence_{0};
  std::atomic<std::uint32_t> waiters_{0};
  std::pmr::vector<HostEvent> events_;
  std::size_t next_event_ = 0;
  std::pmr::vector<HostFault> faults_;

  bool held_ = false;
  bool in_operation_ = false;
  bool taking_ = false;        // the target's pages away, not its mapping
  bool own_seen_ = false;      // the target's own event
  std::size_t own_place_ = 0;  // where in the queue it would be
  Range target_{0, 0};
  Range scratch_{0, 0};
};

}  // namespace mirrorcl::mirror
