// SPDX-License-Identifier: Apache-2.0
// What the mirror asks hms/ before it moves a page (placement.h), and what follows from the answer besides the move
// itself: regions, pages brought ahead, rest.
#include "mirror/migrator.h"

namespace mirrorcl::mirror {

// The application's side of a page that several have is the one that counts for devices, and the other way round.
unsigned Migrator::home_of(const Block& block, unsigned page) noexcept {
  const bool on_device = block.device().test(page) || (requester_ == kHostSide && block.duplicated().test(page));
  return on_device ? holder(block, page).index : kHostSide;
}

PageRun Migrator::dense_around(const Block& block, unsigned page) noexcept {
  if (requester_ != kHostSide) {
    return region_around(block, page, block.tracked(requester_), block.registered(),
                         [&](const Block& other) { return other.tracked(requester_) == PageMask::all(); });
  }
  const auto there = [](const Block& at) { return (at.returned() & at.on_host()) | at.duplicated(); };
  return region_around(block, page, there(block), block.device() | there(block), [](const Block& other) {
    return other.device().none() && (other.returned() | other.duplicated()) == PageMask::all();
  });
}

const hms::Decision& Migrator::decide(const Block& block, unsigned page) noexcept {
  const std::uint64_t address = block.base() + page * kPageSize;
  question_ = {.address = address, .requester = requester_, .home = home_of(block, page), .access = cause_.access};
  question_.kernel_node = kernel_node_;
  if (question_.home == kHostSide) question_.home_node = home_node_ = nodes_.node_of(address);
  if (block.returns != nullptr) {
    question_.history.returns = block.returns->count(page, to_ms(now_ns()), options_.coherent_window_ms);
  }
  const PageRun dense = dense_around(block, page);
  question_.history.dense_pages = dense.count;
  question_.can_share = !block.stays_private().test(page) && !block.discarding().test(page) &&
                        !churn_.recent(block.base(), now_ns()).test(page);
  const bool elsewhere = question_.home == kHostSide ? block.on_host().test(page) : question_.home != requester_;
  if (requester_ != kHostSide && elsewhere) {
    const FaultHistory::Stream stream = histories_[requester_].note(address / kPageSize);
    question_.history.streak = stream.streak;
    question_.history.stride_pages = stream.stride_pages;
  }
  if (requester_ == kHostSide && !application_will_write(block)) {
    question_.copyable_pages = block.device().count(dense);
  }
  if (requester_ != kHostSide && question_.home < kMaxDevices && question_.home != requester_) {
    // A stream takes more than what is dense already.
    const bool stream = std::abs(question_.history.stride_pages) == 1;
    const unsigned pages = std::max(dense.count, stream ? 1U << std::min(question_.history.streak, 9U) : 1);
    const PageMask there = block.device(question_.home) | block.duplicated(question_.home);
    question_.copyable_pages = there.count({page & ~(pages - 1), pages});
  }
  decision_ = placement_.ask(question_);
  cause_.reason = decision_.reason;
  return decision_;
}

// Of a block of which nothing is known, the blocks beside it tell.
bool Migrator::application_will_write(const Block& block) noexcept {
  if (block.writes_expected != Block::kNotKnown) return block.writes_expected != 0;
  for (const std::uint64_t neighbour : {block.base() - kBlockSize, block.base() + kBlockSize}) {
    const Block* other = blocks_.find(neighbour);
    if (other != nullptr && other->writes_expected != Block::kNotKnown && other->writes_expected != 0) return true;
  }
  return false;
}

// After decide(), before the application's read of `block` is served.
void Migrator::note_bulk_read(Block& block) noexcept {
  if (cause_.access != hms::Access::kRead || decision_.pages < kBulkPages) return;
  if (decision_.action == hms::Action::kDuplicate) {
    block.writes_expected = 0;
  } else if (application_will_write(block)) {
    block.writes_expected = block.writes_expected == Block::kNotKnown ? kWritesExpected : block.writes_expected - 1;
  }
}

bool Migrator::is_to_be_shared() const noexcept {
  const bool elsewhere = question_.home != requester_;  // else a mapping is all that is missing
  return decision_.action == hms::Action::kShare || (decision_.action == hms::Action::kMap && elsewhere);
}

// A page that goes back and forth and cannot be shared stays long enough for the access that it came for, or a busy
// thread would take it away each time before the other side has woken.
bool Migrator::rests(const Block& block) const noexcept {
  if (decision_.action != hms::Action::kHold) return false;
  const std::uint64_t since = requester_ == kHostSide ? block.granted_ns : block.came_home_ns;
  return now_ns() - since < decision_.hold_us * std::uint64_t{1000};
}

PageRun Migrator::decided_region(unsigned page) const noexcept {
  const unsigned pages = std::clamp(decision_.pages, 1U, kBlockPages);
  return {page & ~(pages - 1), pages};
}

// The faulting page has come to `device`: so do those that the next faults of its stream would ask for.
void Migrator::bring_ahead(AttachedDevice& device, std::uint64_t address) noexcept {
  const PageRun region = decided_region(page_in_block(address));
  const std::uint64_t first = block_down(address) / kPageSize + region.first;
  histories_[device.index].served(first, first + region.count - 1);
  if (!options_.bring_ahead) return;
  const hms::Prefetch ahead = placement_.ahead(question_, decision_);
  // Regions of a stream without gaps grow by themselves.
  if (ahead.pages == 0 || static_cast<unsigned>(std::abs(ahead.stride)) <= region.count) return;
  std::uint64_t page = address / kPageSize;
  for (std::uint32_t i = 0; i < ahead.pages; ++i) {
    const std::uint64_t next = page + static_cast<std::uint64_t>(std::int64_t{ahead.stride});
    if (!bring_page_ahead(device, next * kPageSize)) break;
    page = next;
  }
  histories_[device.index].brought_ahead(page);
}

bool Migrator::bring_page_ahead(AttachedDevice& device, std::uint64_t address) noexcept {
  if (events_.has_events()) return false;
  const unsigned page = page_in_block(address);
  Block* block = blocks_.find(address);
  if (block == nullptr || !block->registered(page)) {
    const auto mapping = space_.query(address);
    if (!mapping || !mapping->migratable()) return false;
    bool served = false;
    if (register_around(device, address, Access::kRead, &block, &served).outcome != Outcome::kDone || served) {
      return false;
    }
  }
  const bool here = block->in_memory_of(device.index).test(page);
  if (here || block->discarding().test(page) || block->stays_private().test(page)) return here;
  if (block->device().test(page)) return bring_across_ahead(device, *block, page);
  if (!block->on_host().test(page)) return false;
  // Nothing is allocated on a guess.
  PageMask present;
  if (space_.present_pages({address, kPageSize}, &present) != 0 || present.none()) return false;
  if (!has_room(device, kPageSize)) return false;
  block->recently_used |= device.set();
  if (move_in(device, *block, {page, 1}, page).outcome != Outcome::kDone) return false;
  counters_.add(&Statistics::pages_brought_ahead);
  return true;
}

// From another device, as the fault at hand has been answered.
bool Migrator::bring_across_ahead(AttachedDevice& device, Block& block, unsigned page) noexcept {
  const Leave leave = decision_.action == hms::Action::kDuplicate ? Leave::kCopy : Leave::kNothing;
  if (leave == Leave::kNothing && block.copied().test(page)) return false;
  if (!has_room(device, kPageSize)) return false;
  block.recently_used |= device.set();
  const PageRun run{page, 1};
  if (move_across(device, holder(block, page), block, run, page, leave).outcome != Outcome::kDone) return false;
  counters_.add(&Statistics::pages_brought_ahead);
  return true;
}

}  // namespace mirrorcl::mirror
