// SPDX-License-Identifier: Apache-2.0
// Moves pages between the application and devices, and answers the faults of both. Every change of where a page lives
// is made here.
//
// One operation at a time, in the service thread, and none of them waits for the application: an operation that meets
// an event on its way (EAGAIN) finishes what it has begun, leaves the rest as it was and says kAgain; the caller
// applies the events and repeats it. So between operations every page is in exactly one state of block.h, never "in
// transit".
//
// Locking: service thread only.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <span>
#include <vector>

#include "device/packet.h"
#include "mirror/address_space.h"
#include "mirror/attached_device.h"
#include "mirror/block_table.h"
#include "mirror/churn.h"
#include "mirror/clock.h"
#include "mirror/collapser.h"
#include "mirror/copy_threads.h"
#include "mirror/expected.h"
#include "mirror/fault_history.h"
#include "mirror/host_agent.h"
#include "mirror/host_events.h"
#include "mirror/host_mappings.h"
#include "mirror/host_nodes.h"
#include "mirror/layout_watch.h"
#include "mirror/live.h"
#include "mirror/mirror.h"
#include "mirror/page_pipe.h"
#include "mirror/placement.h"
#include "mirror/policy_watch.h"
#include "mirror/shared_memory.h"
#include "mirror/staging.h"
#include "mirror/thread_ends.h"
#include "mirror/userfaultfd.h"

namespace mirrorcl::mirror {

enum class Outcome : std::uint8_t {
  kDone,
  kAgain,   // events are on their way: apply them, then repeat
  kFailed,  // will not work however often it is repeated
};

// How the service of a device fault ended. `kind` says why it failed.
struct Verdict {
  Outcome outcome;
  device::FaultKind kind = device::FaultKind::kNone;
};
inline constexpr Verdict kServed{Outcome::kDone};
inline constexpr Verdict kTryAgain{Outcome::kAgain};
constexpr Verdict failed(device::FaultKind kind) {
  return {Outcome::kFailed, kind};
}

// From here on a run of pages counts as bulk.
inline constexpr unsigned kBulkPages = 16;
// How often the application's reading in bulk is taken for the beginning of writing, once it has been.
inline constexpr std::uint8_t kWritesExpected = 3;

class Migrator {
 public:
  Migrator(const Userfaultfd& host, const AddressSpace& space, HostEvents& events, HostAgent& agent,
           CopyThreads& copiers, Live& live, const MirrorOptions& options, std::pmr::memory_resource* memory);
  // Maps what it needs of the window and reads system limits. Before the threads start.
  Result<void> open();

  // The device's record, which stays where it is. A device that is attached already has a new process, which maps no
  // files. Null: there are kMaxDevices already.
  AttachedDevice* attach(DeviceOperations* operations) noexcept;
  // Null: it is not attached.
  AttachedDevice* find(const DeviceOperations* operations) noexcept;
  // What the device holds comes home, then its record is free for another. kFailed: it is still attached.
  Outcome detach(AttachedDevice& device) noexcept;
  AttachedDevice& device(unsigned index) noexcept { return devices_[index]; }
  bool has_devices() const noexcept;

  Verdict serve_device(AttachedDevice& device, const DeviceFault& fault) noexcept;
  Outcome serve_host(const HostFault& fault) noexcept;

  Placement& placement() noexcept { return placement_; }

  // What follows is done because a program asks for it.
  void begin_request() noexcept {
    cause_ = Cause{};
    kernel_node_ = kUnknownNode;
  }
  // Takes the pages of `range` that can be moved to `device`, faults or not.
  Outcome bring_in(AttachedDevice& device, Range range, Untouched untouched) noexcept;
  // What launches that wait have named (expected.h).
  Expected& expected() noexcept { return expected_; }
  const Expected& expected() const noexcept { return expected_; }
  // A wish has been taken, and more of it is to come.
  bool is_answering_wish() const noexcept { return ahead_.rest.size != 0 && !ahead_.wish.until.is_over(); }
  // Takes a wish, or brings a part of what is left of it. False: there is none.
  bool bring_expected() noexcept;
  // When what is known of wishes is forgotten (now_ns()): memory that is all at home again changes hands without an
  // event. kNever: nothing is known.
  std::uint64_t answers_end_ns() const noexcept { return answers_end_ns_; }
  void end_answers() noexcept {
    expected_.forget();
    answers_end_ns_ = kNever;
  }
  // A thread of the application has faulted there; before it is served.
  void host_touches(std::uint64_t address) noexcept;
  // The pages of the block around `block_address` that live on `device`, or on both sides.
  PageMask device_pages(AttachedDevice& device, std::uint64_t block_address) noexcept;
  // What becomes of memory that has come home: the kernel tells of its events, and asks for pages that nobody has
  // touched, until that is ended. To end it takes as long as a move (Linux looks at every page).
  enum class Tracking : std::uint8_t { kEnd, kEndAtRest, kKeep };
  // Everything of `range` that `devices` hold comes home. Blocks that are not tracked any more are forgotten.
  Outcome bring_home(Range range, DeviceSet devices = kAllDevices, Tracking tracking = Tracking::kEnd) noexcept;
  void drop_snapshots() noexcept;
  // Any thread: true from before a device sees a snapshot until they are dropped.
  bool has_snapshots() const noexcept { return has_snapshots_.load(std::memory_order_acquire); }
  // No device maps a file any more.
  void end_sharing_all() noexcept { end_sharing({0, ~std::uint64_t{0}}); }
  PolicyWatch& policies() noexcept { return policies_; }
  // Any thread: false if what devices rely on in the application's mappings, or a mapping with a policy, has changed;
  // then policies().apply_files() and apply_layout().
  bool layout_unchanged() noexcept { return watch_.unchanged(space_) && policies_.files_unchanged(); }
  Outcome apply_layout() noexcept;
  // In the child of a fork.
  void close_in_child() noexcept {
    pinned_.close();
    thread_ends_.close_in_child();
  }
  ThreadEnds& thread_ends() noexcept { return thread_ends_; }
  const ThreadEnds& thread_ends() const noexcept { return thread_ends_; }
  PageState state(std::uint64_t address) noexcept;
  // Reads the application's memory, wherever it is: 0 or -errno.
  int peek(std::uint64_t address, void* destination, std::uint64_t size) noexcept;
  // Gives back memory that is only kept for speed.
  void rest() noexcept {
    end_tracking_at_home();
    staging_.empty();
  }
  // And what devices keep.
  void free_kept() noexcept;
  // When collapse_next() has something to do, if nothing else has happened for a while (now_ns()).
  std::uint64_t next_collapse_ns() const noexcept { return collapser_.next_ns(); }
  void collapse_next() noexcept;

  // What the notifier tells: the application has unmapped, discarded or moved memory.
  void unmapped(Range range) noexcept;
  void discarded(Range range) noexcept;
  // After the last event, and again while it says kAgain: not known yet what has been discarded.
  Outcome settle_discards() noexcept;
  void moved(Range from, std::uint64_t to) noexcept;
  // After the last event: coherent pages that moved become device pages of their new address. kAgain: apply the events
  // that have come meanwhile, then call again.
  Outcome place_moved() noexcept;
  // What coherent pages were mapped together with, but is not coherent, becomes plain memory.
  Outcome take_back_suspects() noexcept;

 private:
  // A page that moved while it was coherent: the application's mapping at `address` still shows device memory of
  // `origin`. Nothing is served while there is one, so the device page of `origin` is nobody else's.
  struct MovedPage {
    unsigned device;
    std::uint64_t origin;
    std::uint64_t address;
    bool discarded;  // by MADV_DONTNEED at the new address
  };
  // Coherent pages that the application may be about to discard.
  struct AnnouncedDiscard {
    unsigned device;
    std::uint64_t block;  // base address
    PageMask pages;
    std::uint64_t since_ns;
  };
  void follow_moved(Range from, std::uint64_t to) noexcept;
  void drop_moved(Range range) noexcept;
  void place(const MovedPage& page) noexcept;
  bool carry(AttachedDevice& device, Range from, Range to) noexcept;

  void end_all_sharing(AttachedDevice& device) noexcept;
  void empty_device_memory(const Block& block, const PageMask& pages) noexcept;
  // The device that can tell what `page`, which some device holds, contains.
  AttachedDevice& holder(const Block& block, unsigned page) noexcept;

  // eviction.cpp: device memory has a size
  bool has_room(AttachedDevice& device, std::uint64_t bytes) noexcept;
  // Makes room for `bytes` more in the device's memory by sending other blocks than `keep` home, or where they are
  // wanted next. kFailed: nothing more can go.
  Outcome make_room(AttachedDevice& device, std::uint64_t bytes, const Block& keep) noexcept;
  struct Leaving {
    Block* block;
    unsigned pages;      // that would leave
    std::uint64_t rank;  // greater goes first
  };
  static constexpr std::size_t kLookedAt = 32;
  using Leavings = std::array<Leaving, kLookedAt>;
  std::size_t find_leavings(AttachedDevice& device, const Block& keep, std::size_t* looks, Leavings* found) noexcept;
  Outcome evict(AttachedDevice& device, Block& block) noexcept;
  Outcome move_to_other(AttachedDevice& device, AttachedDevice& to, Block& block) noexcept;

  // between_devices.cpp: one device's memory to another's
  Verdict serve_from_other(AttachedDevice& device, Block& block, const DeviceFault& fault, Access allowed) noexcept;
  Verdict migrate_across(AttachedDevice& device, AttachedDevice& from, Block& block, unsigned page, Access access,
                         Access allowed) noexcept;
  enum class Leave : std::uint8_t { kNothing, kCopy };  // where the pages come from
  // `urgent`: the page of `run` that is waited for; it is copied first.
  Verdict move_across(AttachedDevice& device, AttachedDevice& from, Block& block, PageRun run, unsigned urgent,
                      Leave leave) noexcept;
  struct Crossing {
    PageMask copied;
    int error = 0;  // why the others were not
  };
  Crossing cross_alone(AttachedDevice& device, AttachedDevice& from, const Block& block, unsigned page) noexcept;
  Crossing cross_in_bulk(AttachedDevice& device, AttachedDevice& from, const Block& block, PageRun run,
                         unsigned urgent) noexcept;
  Outcome bring_from_others(AttachedDevice& device, Block& block, const PageMask& pages) noexcept;
  void drop_copies(AttachedDevice& device, Block& block, const PageMask& pages) noexcept;
  void drop_other_copies(AttachedDevice& keep, Block& block, const PageMask& pages) noexcept;
  void drop_other_devices(AttachedDevice& keep, Block& block, const PageMask& pages) noexcept;
  // The device may write `pages` again as far as there are no copies of them.
  void lift_protection(AttachedDevice& device, const Block& block, const PageMask& pages) noexcept;
  Verdict share_coherent(AttachedDevice& device, AttachedDevice& owner, Block& block, unsigned page,
                         Access allowed) noexcept;
  void end_coherent_sharing(Block& block, const PageMask& pages, DeviceSet devices = kAllDevices) noexcept;

  // device_faults.cpp
  // `fault` is on a page that some device holds, as device or duplicated page.
  Verdict serve_held(AttachedDevice& device, Block& block, const DeviceFault& fault, Access allowed) noexcept;
  Verdict serve_coherent(AttachedDevice& device, const Block& block, unsigned page, Access allowed) noexcept;
  Verdict register_around(AttachedDevice& device, std::uint64_t address, Access access, Block** block,
                          bool* served) noexcept;
  bool tracks_all(const Block& block, PageRun run) const noexcept;
  Verdict refuse_write(std::uint64_t address, const MappingInfo& mapping) noexcept;
  PageRun dropped_around(const AttachedDevice& device, const Block& block, unsigned page) const noexcept;
  void grant(AttachedDevice& device, Range range, Access access) noexcept;
  void count_replay() noexcept;
  static void note_grant(const AttachedDevice& device, Block& block) noexcept {
    block.granted_ns = now_ns();
    block.granted_to = device.index;
  }

  // migrate_in.cpp: host to device
  Verdict migrate_in(AttachedDevice& device, Block& block, unsigned page) noexcept;
  // `urgent`: the page of `run` that is waited for; it is copied first.
  Verdict move_in(AttachedDevice& device, Block& block, PageRun run, unsigned urgent) noexcept;
  Progress take_out(Range source, bool skip_holes, std::uint64_t* staging) noexcept;
  Progress take_out_past_holes(Range source, std::uint64_t* staging, bool* complete) noexcept;
  Progress take_out_to(std::uint64_t staging, Range source, bool skip_holes) noexcept;
  Verdict move_in_stubborn(AttachedDevice& device, Block& block, PageRun run, int error, unsigned* served) noexcept;
  Verdict wait_for_unpinning(std::uint64_t address) noexcept;
  void note_thread_blocks(const Block& block, const PageMask& contents, PageRun run, std::uint64_t staging) noexcept;
  Verdict adopt(AttachedDevice& device, Block& block, PageRun run, const PageMask& present, std::uint64_t staging,
                unsigned urgent) noexcept;
  bool adopt_whole(AttachedDevice& device, Block& block, std::uint64_t staging, unsigned urgent) noexcept;
  PageMask lost_pages(const Block& block, PageRun run, const PageMask& present) const noexcept;
  Verdict copy_in_protected(AttachedDevice& device, Block& block, PageRun run, Leave leave) noexcept;
  void put_back(Range range, std::uint64_t staging) noexcept;
  void put_copy_back(std::uint64_t address, std::uint64_t staging) noexcept;

  // duplicates.cpp: pages that both sides have
  // Copies for a device that only reads; kFailed: not possible for `page`.
  Verdict duplicate_in(AttachedDevice& device, Block& block, unsigned page) noexcept;
  // The device wants to write pages of which others have copies too: those go. `mapped`: it can read `page`.
  Verdict end_duplication(AttachedDevice& device, Block& block, unsigned page, bool mapped) noexcept;
  Verdict drop_host_copies(AttachedDevice& device, Block& block, PageRun run) noexcept;
  Verdict discard_host_copies(AttachedDevice& device, Block& block, PageRun run) noexcept;
  // The application's page of which devices have copies is to be the only one: those go, and those around it.
  Outcome end_duplication_on_device(Block& block, unsigned page) noexcept;
  // The duplicates that `devices` have of `pages` go. Where the application's are the only ones then, it may write
  // them.
  Outcome drop_device_copies(Block& block, const PageMask& pages, DeviceSet devices = kAllDevices) noexcept;

  // snapshots.cpp: copies of what cannot be mirrored
  Verdict take_snapshot(AttachedDevice& device, Block& block, unsigned page, const MappingInfo& mapping) noexcept;
  int read_or_zeros(Range page, const MappingInfo& mapping) noexcept;
  // What devices have of `pages` as snapshots goes.
  void drop_snapshots(Block& block, const PageMask& pages) noexcept;
  void drop_snapshots(AttachedDevice& device, Block& block, const PageMask& pages) noexcept;

  // decisions.cpp: what hms/ says
  unsigned home_of(const Block& block, unsigned page) noexcept;
  PageRun dense_around(const Block& block, unsigned page) noexcept;
  // Asks for `page`, which the fault at hand concerns; the answer is decision_ until the next one.
  const hms::Decision& decide(const Block& block, unsigned page) noexcept;
  bool is_to_be_shared() const noexcept;
  bool application_will_write(const Block& block) noexcept;
  void note_bulk_read(Block& block) noexcept;
  bool wants_to_share(const Block& block, unsigned page) noexcept {
    decide(block, page);
    return is_to_be_shared();
  }
  bool rests(const Block& block) const noexcept;
  PageRun decided_region(unsigned page) const noexcept;
  void bring_ahead(AttachedDevice& device, std::uint64_t address) noexcept;
  bool bring_page_ahead(AttachedDevice& device, std::uint64_t address) noexcept;
  bool bring_across_ahead(AttachedDevice& device, Block& block, unsigned page) noexcept;

  // requested.cpp: what a program asks for
  Outcome bring_part_in(AttachedDevice& device, Range part, Untouched untouched) noexcept;
  Outcome find_movable(AttachedDevice& device, Range part, Untouched untouched, Block** block,
                       PageMask* movable) noexcept;
  PageMask device_pages(AttachedDevice& device, const Block& block) noexcept;

  // expected.cpp: what launches that wait name
  Range expected_range(const Expected::Wish& wish) noexcept;
  void begin_wish() noexcept;
  // kAnswered: until something leaves a device, nobody need ask again. kOver: the launch begins, or its memory is used.
  enum class WishEnd : std::uint8_t { kAnswered, kOver };
  void end_wish(WishEnd end) noexcept;
  Outcome bring_expected_part() noexcept;
  bool would_move(AttachedDevice& device, std::uint64_t address, std::uint64_t* end) noexcept;
  bool has_room_to_spare(AttachedDevice& device, std::uint64_t bytes) noexcept;
  Outcome move_expected(AttachedDevice& device, Block& block, const PageMask& pages) noexcept;

  // private_files.cpp: private mappings of files become anonymous memory
  Outcome make_anonymous(AttachedDevice& device, std::uint64_t address, const MappingInfo& mapping) noexcept;
  PageRun anonymous_chunk(const Block& block, unsigned page, const MappingInfo& mapping) noexcept;
  int make_run_anonymous(AttachedDevice& device, Block& block, PageRun run) noexcept;
  void show_contents(AttachedDevice& device, Block& block, PageRun run) noexcept;

  // shared_files.cpp: shared mappings of files, mapped into the devices
  std::optional<Verdict> share_file(DeviceSet devices, std::uint64_t address, Access access,
                                    const MappingInfo& mapping) noexcept;
  std::nullopt_t refuse_file(std::uint64_t address, const MappingInfo& mapping, const char* reason, int error) noexcept;
  void unmap_file(Range range, DeviceSet devices) noexcept;
  void end_sharing(Range range, DeviceSet devices = kAllDevices) noexcept;
  // The device relies on `range`, which shows no file, being mapped with `protection`.
  void watch(Range range, int protection) noexcept {
    end_sharing(range);
    watch_.add({.range = range, .protection = protection});
  }
  // Nothing is expected of the application's mappings in `range` any more.
  void end_watching(Range range) noexcept {
    end_sharing(range);
    watch_.remove(range);
  }

  // layout.cpp: what the application may do
  Outcome apply_layout_to(const LayoutWatch::Span& span, bool* changed) noexcept;
  Outcome follow_file(DeviceSet devices, Range part, const MappingInfo& mapping) noexcept;
  Outcome follow_protection(Range part, const MappingInfo& mapping) noexcept;
  Access host_access(std::uint64_t address) noexcept;

  // migrate_out.cpp: device to host
  void end_tracking_at_home() noexcept;
  void end_tracking(Range range) noexcept;
  void end_tracking(std::span<Block*> blocks, Range range) noexcept;
  Outcome bring_region_home(Block& block, unsigned page) noexcept;
  Outcome move_out(AttachedDevice& device, Block& block, PageRun run, unsigned urgent, Leave leave) noexcept;
  struct Homecoming {
    PageMask arrived;   // pages that the application has from the device now
    PageMask skipped;   // pages that it does not need: it has newer ones, or no mapping for them any more
    PageMask unmapped;  // pages that the device does not have any more
    bool huge = false;  // as one huge page
    std::atomic<bool> failed{false};
    std::atomic<bool> no_memory{false};
    int node = kUnknownNode;  // where they are to come to
  };
  // Where pages of `block` come home to unless they have a policy: the kernel would take them from the node of the
  // thread that touches them. Where nobody does, they go where they came from.
  int landing_node(const Block& block) const noexcept {
    if (!nodes_.follows_threads()) return kUnknownNode;
    return kernel_node_ != kUnknownNode ? kernel_node_ : block.home_node;
  }
  void note_whole_return(Block& block, const Homecoming& home) noexcept;
  void fill_and_move_home(AttachedDevice& device, Block& block, unsigned urgent, Homecoming* result) noexcept;
  void copy_home(AttachedDevice& device, const Block& block, PageRun run, Leave leave, Homecoming* result) noexcept;
  void copy_contents_home(AttachedDevice& device, const Block& block, PageRun run, Leave leave,
                          Homecoming* result) noexcept;
  // What `device` holds of `wanted` comes home.
  Outcome bring_home_from(AttachedDevice& device, Block& block, const PageMask& wanted) noexcept;
  // How much goes with `page`: the dense region around it, the whole block in a stream.
  template <typename IsThere>
  PageRun region_around(const Block& block, unsigned page, const PageMask& there, const PageMask& candidates,
                        IsThere is_there) noexcept;
  Outcome show_zeros(Block* block, const HostFault& fault) noexcept;
  void stop_tracking(std::span<Block* const> blocks, Range range) noexcept;
  void stop_unknown_tracking(const Block* block, std::uint64_t address) noexcept;

  // coherence.cpp: one memory for both
  // In the memory that `device`, which holds `page`, or nobody does, shares with the application. Pages that only other
  // devices hold are left alone.
  Outcome make_coherent(AttachedDevice& device, Block& block, unsigned page) noexcept;
  Outcome make_run_coherent(AttachedDevice& device, Block& block, PageRun run) noexcept;
  Outcome end_coherence(AttachedDevice& device, Block& block, PageRun run) noexcept;
  Outcome serve_coherent(AttachedDevice& device, const HostFault& fault) noexcept;
  SharedMemory shared(AttachedDevice& device) const noexcept { return {*device.operations, pinned_}; }
  bool shows_shared_memory(const MappingInfo& mapping) const noexcept;
  Outcome take_back_grown(std::uint64_t address) noexcept;
  void find_thread_control_blocks(AttachedDevice& device, Block& block, PageRun run) noexcept;
  template <typename Visit>
  void for_each_waiter(Range range, Visit visit) noexcept;
  void leave_what_is_waited_for(Block& block, const PageMask& wanted) noexcept;
  void wake_waiters(AttachedDevice& device, Range range) noexcept;

  // What the operation at hand is for.
  struct Cause {
    hms::Uid requester = hms::live::kHostThreads;
    hms::Access access = hms::Access::kRead;
    hms::Reason reason = hms::Reason::kAsked;  // of the moves that it makes
    bool evicts = false;                       // others had to leave for it
    const hms::Policy* policy = nullptr;       // of what is evicted
  };
  // Tells other processes what has been done with `range`, between the application and `device`, by the mirror's own
  // rules.
  void note(const AttachedDevice& device, Range range, hms::Action action, Live::To to, hms::Reason reason) noexcept;

  // Splits `run` into parts and calls copy(PageRun) for each, on several CPUs if `parallel`; the part with `urgent`
  // first. A part's pages share no word of a PageMask with another part's.
  template <typename Copy>
  void copy_in_parts(bool parallel, PageRun run, unsigned urgent, Copy copy) noexcept;
  // discarded.cpp
  bool discard_is_recent(const Block& block) const noexcept;
  PageMask without_entry(const Block& block, const PageMask& pages) const noexcept;
  bool is_announced(const Block& block, unsigned page) const noexcept;
  void forget_announced(const Block& block, PageRun run) noexcept;
  // Calls a device operation until it is not told to read host events first.
  template <typename Operation>
  int on_device(Operation operation) noexcept;

  const Userfaultfd& host_;
  const AddressSpace& space_;
  HostEvents& events_;
  HostAgent& agent_;
  HostMappings mappings_{host_, space_, events_, agent_};
  CopyThreads& copiers_;
  Live& live_;
  Counters& counters_;
  MirrorOptions options_;
  std::pmr::memory_resource* memory_;
  std::array<AttachedDevice, kMaxDevices> devices_;
  BlockTable blocks_;
  Staging staging_;
  Collapser collapser_;
  PinnedHostMemory pinned_;
  char* bounce_ = nullptr;                           // kBlockSize bytes of pinned memory for contents on their way
  std::pmr::vector<std::uint64_t> snapshot_blocks_;  // base addresses of blocks that may hold snapshots
  std::pmr::vector<MovedPage> moved_pages_;
  std::pmr::vector<AnnouncedDiscard> announced_discards_;
  std::pmr::vector<Range> at_home_;                 // whose tracking ends at rest
  std::pmr::vector<std::uint64_t> grown_suspects_;  // addresses at which coherent memory may have grown
  std::atomic<bool> has_snapshots_{false};
  std::uint64_t coherent_mappings_ = 0;  // an upper bound of the mappings that coherent runs split off
  std::uint64_t coherent_mappings_limit_ = 0;
  bool told_coherent_limit_ = false;
  PagePipe page_pipe_;
  LayoutWatch watch_;
  Churn churn_{options_.coherent_not_before_ms};
  PolicyWatch policies_{host_, space_};
  Expected expected_;
  struct Ahead {
    Expected::Wish wish{};
    Range all{0, 0};  // of size 0 once it counts no more that the application touches it
    Range rest{0, 0};
    unsigned pages = 0;  // that have come
    unsigned tries = 0;
  };
  Ahead ahead_;  // the wish that is being answered, or was last
  // What the application touched while a launch waited for it does not come for a while.
  struct SpoiltWish {
    std::uint64_t address = 0;
    std::uint64_t until_ns = 0;
  };
  std::array<SpoiltWish, 16> spoilt_wishes_{};
  std::size_t next_spoilt_wish_ = 0;
  std::uint64_t answers_end_ns_ = kNever;
  ThreadEnds thread_ends_{*this, host_, space_, events_, agent_, counters_};
  std::array<FileIdentity, 16> refused_files_{};  // the last ones that could not be shared
  std::size_t next_refused_file_ = 0;
  bool told_private_file_ = false;
  std::uint64_t wanted_for_writing_ = 0;  // the page of the write that is being served; 0: it is a read
  std::uint64_t pinned_page_ = 0;         // the last one that such a write could not have, and since when
  std::uint64_t pinned_since_ns_ = 0;
  Cause cause_;
  Placement placement_;
  std::array<FaultHistory, kMaxDevices> histories_;
  HostNodes nodes_;
  int home_node_ = kUnknownNode;    // where the pages at hand were before they went to a device
  int kernel_node_ = kUnknownNode;  // where the kernel would allocate a page for the thread whose fault is at hand
  // The fault at hand: who makes it, what was asked about it, and the answer.
  unsigned requester_ = kHostSide;
  Placement::Question question_{};
  hms::Decision decision_{};
  bool replay_uncounted_ = false;  // a device access is being served and has not been let go yet
};

inline std::uint32_t to_ms(std::uint64_t ns) noexcept {
  return static_cast<std::uint32_t>(ns / 1'000'000);
}

template <typename IsThere>
PageRun Migrator::region_around(const Block& block, unsigned page, const PageMask& there, const PageMask& candidates,
                                IsThere is_there) noexcept {
  const PageRun region = dense_region(page, there, candidates, options_.density_percent);
  if (region.count == kBlockPages) return region;
  // A stream: the block beside this one is there already, so take this one whole.
  for (std::uint64_t neighbour : {block.base() - kBlockSize, block.base() + kBlockSize}) {
    const Block* other = blocks_.find(neighbour);
    if (other != nullptr && is_there(*other)) return {0, kBlockPages};
  }
  return region;
}

template <typename Copy>
void Migrator::copy_in_parts(bool parallel, PageRun run, unsigned urgent, Copy copy) noexcept {
  if (!parallel) return copy(run);
  constexpr unsigned kPartPages = 64;
  const unsigned first = run.first / kPartPages;
  const unsigned parts = (run.end() - 1) / kPartPages - first + 1;
  auto body = [&](unsigned i) {
    const unsigned start = (first + (urgent / kPartPages - first + i) % parts) * kPartPages;
    const unsigned begin = std::max(start, run.first);
    copy(PageRun{begin, std::min(start + kPartPages, run.end()) - begin});
  };
  copiers_.run(parts, body);
}

template <typename Operation>
int Migrator::on_device(Operation operation) noexcept {
  int result;
  while ((result = operation()) == -11 /* EAGAIN */) {
    counters_.add(&Statistics::retries);
    events_.read_pending();
  }
  return result;
}

}  // namespace mirrorcl::mirror
