// SPDX-License-Identifier: Apache-2.0
// Memory that launches name comes ahead of the device's faults while they wait (expected.h).
//
// It is a guess, so it must not hurt anybody. Nothing comes
//   - unless the size of what is named is known, or most of a region around it is on the device already; nor less than
//     kBulkPages, which a fault brings as soon;
//   - that nobody has touched yet, that another device has, or that goes back and forth;
//   - where hms::decide() would not move it, or where the device has no room to spare: nothing leaves for it;
//   - in any other way than with UFFDIO_MOVE, which refuses pages that the kernel has pinned for input or output: no
//     snapshot is taken before the launch begins, and nothing is copied behind the back of a device that writes to it;
//   - once the launch begins, or as soon as a thread of the application touches any of it;
//   - while there are faults to serve, which go first (ServiceThread::serve_expected).
//
// Locking: as in expected.h; the Migrator's functions service thread only.
#include "mirror/expected.h"

#include <sys/mman.h>

#include <algorithm>

#include "device/window.h"
#include "mirror/heap_extent.h"
#include "mirror/migrator.h"

namespace mirrorcl::mirror {
namespace {

// Of a device's memory so much stays free for what it asks for itself.
constexpr std::uint64_t kSpare = 8;  // one in so many bytes
// How often a part is tried again because events are on their way.
constexpr unsigned kTries = 1000;

}  // namespace

bool Expected::put(const Wish& wish) noexcept {
  Slot& slot = slots_[tail_.fetch_add(1, std::memory_order_relaxed) % slots_.size()];
  std::uint32_t state = Slot::kFree;
  if (!slot.state.compare_exchange_strong(state, Slot::kClaimed, std::memory_order_acquire)) return false;
  slot.wish = wish;
  slot.state.store(Slot::kPosted, std::memory_order_seq_cst);
  return !rung_.exchange(true, std::memory_order_seq_cst);
}

bool Expected::may_wake(std::uint64_t now_ns) noexcept {
  if (in_vain_.load(std::memory_order_relaxed) < kInVain) return true;
  if (now_ns - woken_ns_.load(std::memory_order_relaxed) < kStingyNs) return false;
  woken_ns_.store(now_ns, std::memory_order_relaxed);
  return true;
}

void Expected::close_wait(std::uint64_t value) noexcept {
  std::atomic<std::uint64_t>& closed = closed_waits_[value % closed_waits_.size()];
  std::uint64_t newest = closed.load(std::memory_order_relaxed);
  while (newest < value && !closed.compare_exchange_weak(newest, value, std::memory_order_release)) {
  }
}

bool Expected::take_posted(Wish* wish) noexcept {
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[(head_ + i) % slots_.size()];
    if (slot.state.load(std::memory_order_seq_cst) != Slot::kPosted) continue;
    *wish = slot.wish;
    slot.state.store(Slot::kFree, std::memory_order_release);
    head_ += i + 1;
    return true;
  }
  return false;
}

bool Expected::take(Wish* wish) noexcept {
  if (!rung()) return false;
  if (take_posted(wish)) return true;
  // Whoever posts a wish from here on rings again.
  rung_.store(false, std::memory_order_seq_cst);
  return take_posted(wish);
}

void Expected::note_come(const Wish& wish) noexcept {
  const std::uint64_t address = wish.memory.address;
  come_[place_of(address, wish.device)].store(mark_of(address, wish.device), std::memory_order_relaxed);
}

void Expected::note_use(bool useful) noexcept {
  const std::uint32_t in_vain = in_vain_.load(std::memory_order_relaxed);
  in_vain_.store(useful ? 0 : std::min(in_vain + 1, kInVain), std::memory_order_relaxed);
}

// --- the service thread's part

// The whole pages that the wish is about; of size 0: not known, or too few.
Range Migrator::expected_range(const Expected::Wish& wish) noexcept {
  constexpr Range kNothing{0, 0};
  const std::uint64_t address = wish.memory.address;
  if (address >= window::kUserSpaceEnd || window::kWindow.contains(address)) return kNothing;
  Range range{0, 0};
  if (wish.memory.size != 0) {
    const std::uint64_t start = page_up(address);
    const std::uint64_t end = page_down(address + wish.memory.size);
    if (start < end) range = {start, end - start};
  } else {
    range =
        heap_extent(address, [this](std::uint64_t from, void* to, std::uint64_t size) { return peek(from, to, size); });
  }
  if (range.size == 0) {
    // Grown by what is there already.
    const Block* block = blocks_.find(address);
    requester_ = wish.device;
    if (block != nullptr) range = block->range(dense_around(*block, page_in_block(address)));
  }
  return range.size >= kBulkPages * kPageSize ? range : kNothing;
}

void Migrator::begin_wish() noexcept {
  const Expected::Wish& wish = ahead_.wish;
  ahead_.all = ahead_.rest = {0, 0};
  ahead_.pages = 0;
  ahead_.tries = 0;
  if (wish.until.is_over() || devices_[wish.device].operations == nullptr) return;
  const std::uint64_t now = now_ns();
  const bool spoilt = std::any_of(spoilt_wishes_.begin(), spoilt_wishes_.end(), [&](const SpoiltWish& other) {
    return other.address == wish.memory.address && now < other.until_ns;
  });
  if (!spoilt && host_.can_move()) ahead_.all = ahead_.rest = expected_range(wish);
  if (ahead_.rest.size == 0) end_wish(WishEnd::kAnswered);
}

void Migrator::end_wish(WishEnd end) noexcept {
  ahead_.rest = {0, 0};
  if (end == WishEnd::kAnswered) {
    expected_.note_come(ahead_.wish);
    answers_end_ns_ = std::min(answers_end_ns_, now_ns() + options_.coherent_window_ms * std::uint64_t{1'000'000});
  }
  if (end != WishEnd::kOver || ahead_.pages != 0) expected_.note_use(ahead_.pages != 0);
}

bool Migrator::bring_expected() noexcept {
  if (ahead_.rest.size == 0) {
    if (!expected_.take(&ahead_.wish)) return false;
    begin_wish();
    return true;
  }
  if (ahead_.wish.until.is_over()) {
    end_wish(WishEnd::kOver);
    return true;
  }
  switch (bring_expected_part()) {
    case Outcome::kDone:
      if (ahead_.rest.size == 0) end_wish(WishEnd::kAnswered);
      break;
    case Outcome::kAgain:
      if (++ahead_.tries == kTries) end_wish(WishEnd::kOver);
      break;
    case Outcome::kFailed:
      end_wish(WishEnd::kAnswered);
      break;
  }
  return true;
}

// The first part of what is left, in one block, one mapping and with one policy. kFailed: no more is to come.
Outcome Migrator::bring_expected_part() noexcept {
  AttachedDevice& device = devices_[ahead_.wish.device];
  const std::uint64_t start = ahead_.rest.start;
  const auto leave_up_to = [&](std::uint64_t end) {
    ahead_.rest = {end, ahead_.rest.end() - end};
    return Outcome::kDone;
  };
  std::uint64_t end = std::min(ahead_.rest.end(), block_down(start) + kBlockSize);
  if (const Block* block = blocks_.find(start)) {
    const PageMask part(block->pages({start, end - start}));
    if ((part & ~block->in_memory_of(device.index)).none()) return leave_up_to(end);
    if (block->coherent().test(page_in_block(start))) return leave_up_to(start + kPageSize);
  }
  const auto mapping = space_.query(start);
  if (!mapping || !mapping->migratable() || (mapping->protection & PROT_EXEC) != 0) return Outcome::kFailed;
  end = std::min(end, mapping->range.end());
  if (!would_move(device, start, &end)) return leave_up_to(end);
  Block* block = nullptr;
  PageMask wanted;
  const Outcome found = find_movable(device, {start, end - start}, Untouched::kSkip, &block, &wanted);
  if (found == Outcome::kAgain) return found;
  if (wanted.none()) return leave_up_to(end);
  wanted &= ~block->stays_private();
  if (block->returns != nullptr) {
    const std::uint32_t threshold = std::max(options_.coherent_after_returns, 1U);
    wanted &= ~block->returns->bouncing(to_ms(now_ns()), options_.coherent_window_ms, threshold);
  }
  if (wanted.none()) return leave_up_to(end);
  if (!has_room_to_spare(device, wanted.count() * kPageSize)) return Outcome::kFailed;
  const Outcome outcome = move_expected(device, *block, wanted);
  return outcome == Outcome::kAgain ? outcome : leave_up_to(end);
}

// Whether a page there, without a past, would move to the device; *end: up to where that holds at most.
bool Migrator::would_move(AttachedDevice& device, std::uint64_t address, std::uint64_t* end) noexcept {
  requester_ = device.index;
  kernel_node_ = kUnknownNode;
  home_node_ = nodes_.node_of(address);
  wanted_for_writing_ = 0;
  replay_uncounted_ = false;
  cause_ = {hms::live::device_initiator(device.index), hms::Access::kRead, hms::Reason::kExpected};
  question_ = {.address = address, .requester = device.index, .home = kHostSide};
  question_.home_node = home_node_;
  decision_ = placement_.ask(question_);
  if (placement_.policy_range().size != 0) *end = std::min(*end, placement_.policy_range().end());
  return decision_.action == hms::Action::kMove && !decision_.evict;
}

bool Migrator::has_room_to_spare(AttachedDevice& device, std::uint64_t bytes) noexcept {
  const std::uint64_t size = device->capabilities().memory_size;
  const std::uint64_t used = device->memory_in_use() + bytes;
  return used <= size - size / kSpare && has_room(device, bytes);
}

Outcome Migrator::move_expected(AttachedDevice& device, Block& block, const PageMask& pages) noexcept {
  const PageMask before = block.device(device.index);
  block.recently_used |= device.set();
  Outcome outcome = Outcome::kDone;
  for (PageRun run = pages.next_run(0); run.count != 0 && outcome != Outcome::kAgain; run = pages.next_run(run.end())) {
    outcome = move_in(device, block, run, run.first).outcome;
  }
  const unsigned come = (block.device(device.index) & ~before).count();
  ahead_.pages += come;
  counters_.add(&Statistics::bytes_brought_for_launches, come * kPageSize);
  return outcome;
}

void Migrator::host_touches(std::uint64_t address) noexcept {
  const Block* block = blocks_.find(address);
  if (block != nullptr && block->state(page_in_block(address)) != PageState::kHost) expected_.forget();
  if (address - ahead_.all.start >= ahead_.all.size || ahead_.wish.until.is_over()) return;
  spoilt_wishes_[next_spoilt_wish_++ % spoilt_wishes_.size()] = {
      ahead_.wish.memory.address, now_ns() + options_.coherent_window_ms * std::uint64_t{1'000'000}};
  ahead_.all = {0, 0};
  if (ahead_.rest.size != 0) end_wish(WishEnd::kOver);
}

}  // namespace mirrorcl::mirror
