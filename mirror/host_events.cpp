// SPDX-License-Identifier: Apache-2.0
#include "mirror/host_events.h"

#include "base/log.h"
#include "mirror/insist.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {
namespace {

bool overlap(Range a, Range b) {
  return a.start < b.end() && b.start < a.end();
}

}  // namespace

void HostEvents::read_pending() noexcept {
  (void)unsettle();
  constexpr int kBatch = 16;
  uffd_msg messages[kBatch];
  for (;;) {
    int count = host_.read(messages);
    if (count < 0) {
      log_error("cannot read the application's userfaultfd: error {}", -count);
      return;
    }
    for (int i = 0; i < count; ++i) take_message(messages[i]);
    if (count < kBatch) return;
  }
}

void HostEvents::read_next() noexcept {
  (void)unsettle();
  uffd_msg message[1];
  do {
    if (host_.read(message) <= 0) return;
    take_message(message[0]);
  } while (message[0].event == UFFD_EVENT_PAGEFAULT);
}

void HostEvents::take_message(const uffd_msg& message) {
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT: {
      std::uint64_t flags = message.arg.pagefault.flags;
      faults_.push_back({page_down(message.arg.pagefault.address), (flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0,
                         (flags & UFFD_PAGEFAULT_FLAG_WP) != 0, message.arg.pagefault.feat.ptid});
      return;
    }
    case UFFD_EVENT_UNMAP:
    case UFFD_EVENT_REMOVE: {
      Range range{message.arg.remove.start, message.arg.remove.end - message.arg.remove.start};
      bool unmap = message.event == UFFD_EVENT_UNMAP;
      queue_event({unmap ? HostEvent::Kind::kUnmap : HostEvent::Kind::kRemove, range, 0});
      return;
    }
    case UFFD_EVENT_REMAP:
      queue_event({HostEvent::Kind::kRemap, {message.arg.remap.from, message.arg.remap.len}, message.arg.remap.to});
      return;
    default:
      log_error("unknown userfaultfd message {}", static_cast<int>(message.event));
  }
}

void HostEvents::queue_event(HostEvent event) {
  if (in_operation_) {
    if (overlap(event.range, scratch_)) return;
    if (taking_ && event.kind == HostEvent::Kind::kRemap && event.to == scratch_.start) {
      own_seen_ = true;
      return;
    }
    // One event, of just this range, however many mappings there are.
    const bool is_target = event.range.start == target_.start && event.range.size == target_.size;
    if (!taking_ && !own_seen_ && event.kind == HostEvent::Kind::kUnmap && is_target) {
      own_seen_ = true;
      own_place_ = events_.size();
      return;
    }
  }
  events_.push_back(event);
}

HostEvent HostEvents::take_event() {
  HostEvent event = events_[next_event_++];
  if (next_event_ == events_.size()) {
    events_.clear();
    next_event_ = 0;
  }
  return event;
}

bool HostEvents::pending_on(Range range) const {
  for (std::size_t i = next_event_; i < events_.size(); ++i) {
    if (overlap(events_[i].range, range)) return true;
    if (events_[i].kind == HostEvent::Kind::kRemap && overlap({events_[i].to, events_[i].range.size}, range))
      return true;
  }
  return false;
}

bool HostEvents::unsettle() noexcept {
  if ((sequence_.load(std::memory_order_relaxed) & 1) != 0) return false;
  sequence_.fetch_add(1, std::memory_order_seq_cst);
  return true;
}

void HostEvents::settle() noexcept {
  if (held_ || has_events() || (sequence_.load(std::memory_order_relaxed) & 1) == 0) return;
  sequence_.fetch_add(1, std::memory_order_seq_cst);
  if (waiters_.load(std::memory_order_seq_cst) != 0) futex_wake(&sequence_, 1 << 30);
}

void HostEvents::wait_read() const noexcept {
  constexpr int kSpins = 100;
  for (int spins = 0; host_.events_on_their_way(); ++spins) {
    if (spins < kSpins) {
      cpu_relax();
    } else {
      pause_briefly();
    }
  }
}

void HostEvents::wait_settled_slowly() noexcept {
  std::uint32_t seen = sequence_.load(std::memory_order_seq_cst);
  for (int spins = 0; spins < 200; ++spins) {
    // Any change means that what had been read when we came has been applied since.
    if ((seen & 1) == 0 || sequence_.load(std::memory_order_seq_cst) != seen) return;
    cpu_relax();
  }
  waiters_.fetch_add(1, std::memory_order_seq_cst);
  while (sequence_.load(std::memory_order_seq_cst) == seen) futex_wait(&sequence_, seen, 10'000'000);
  waiters_.fetch_sub(1, std::memory_order_seq_cst);
}

void HostEvents::begin_operation(Range target, Range scratch) {
  in_operation_ = true;
  taking_ = false;
  own_seen_ = false;
  target_ = target;
  scratch_ = scratch;
}

void HostEvents::begin_taking(Range target, Range scratch) {
  begin_operation(target, scratch);
  taking_ = true;
}

bool HostEvents::end_operation(bool made) {
  in_operation_ = false;
  if (!made && own_seen_) {
    const HostEvent event{HostEvent::Kind::kUnmap, target_, 0};
    events_.insert(events_.begin() + static_cast<std::ptrdiff_t>(own_place_), event);
  }
  return own_seen_;
}

std::uint64_t HostEvents::take_removal(Range target, std::size_t* number) {
  auto longest = events_.end();
  for (auto event = events_.begin() + static_cast<std::ptrdiff_t>(*number); event != events_.end(); ++event) {
    if (event->kind != HostEvent::Kind::kRemove || event->range.start != target.start) continue;
    if (event->range.end() > target.end()) continue;
    if (longest == events_.end() || event->range.size > longest->range.size) longest = event;
  }
  if (longest == events_.end()) return 0;
  const std::uint64_t end = longest->range.end();
  *number = static_cast<std::size_t>(longest - events_.begin());
  events_.erase(longest);
  return end;
}

}  // namespace mirrorcl::mirror
