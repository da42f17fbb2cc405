// SPDX-License-Identifier: Apache-2.0
#include "hms/policy.h"

#include <errno.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <mutex>
#include <new>

namespace mirrorcl::hms {

bool operator==(const Policy& a, const Policy& b) noexcept {
  return a.preferred == b.preferred && a.read_mostly == b.read_mostly && std::ranges::equal(a.bind, b.bind) &&
         std::ranges::equal(a.accessed_by, b.accessed_by);
}

// --- lists of uids

PolicyTable::Index PolicyTable::Lists::add(std::span<const Uid> uids) noexcept {
  assert(!uids.empty());
  unsigned order = std::max(kSmallest, static_cast<unsigned>(std::bit_width(uids.size() + 1)));
  if (order > kLargest) return 0;
  Index list = 0;
  if (free[order] != 0) {
    list = free[order];
    free[order] = words[list];
  } else if (size - used >= 1U << order) {
    list = used;
    used += 1U << order;
  } else {
    // A larger piece that is free; what it is too long stays with the list until that is released.
    unsigned larger = order + 1;
    while (larger <= kLargest && free[larger] == 0) ++larger;
    if (larger > kLargest) return 0;
    list = free[larger];
    free[larger] = words[list];
    order = larger;
  }
  ++lists;
  words[list] = 1 | order << kOrderShift;
  words[list + 1] = static_cast<std::uint32_t>(uids.size());
  std::ranges::copy(uids, words + list + 2);
  return list;
}

void PolicyTable::Lists::keep(Index list) noexcept {
  if (list != 0) ++words[list];
}

void PolicyTable::Lists::release(Index list) noexcept {
  if (list == 0 || (--words[list] & kReferencesMask) != 0) return;
  unsigned order = words[list] >> kOrderShift;
  words[list] = free[order];
  free[order] = list;
  if (--lists == 0) {
    used = 1;
    std::ranges::fill(free, 0);
  }
}

std::span<const Uid> PolicyTable::Lists::get(Index list) const noexcept {
  if (list == 0) return {};
  return {words + list + 2, words[list + 1]};
}

// --- one change of the tree

// The new version under construction. Nodes of older versions are copied before they are altered, and retired.
class PolicyEdit {
 public:
  using Index = PolicyTable::Index;
  using Node = PolicyTable::Node;

  explicit PolicyEdit(PolicyTable& table)
      : table_(table), nodes_(table.nodes_), version_(++table.version_), root_(table.root_.load()) {}

  // Makes the new version the one that readers see, waits until nobody sees the old one and recycles its nodes.
  void publish() noexcept {
    table_.root_.store(root_, std::memory_order_seq_cst);
    if (retired_ == 0) return;
    table_.wait_for_readers();
    while (retired_ != 0) {
      Index node = retired_;
      retired_ = nodes_[node].next_retired;
      table_.lists_.release(nodes_[node].bind);
      table_.lists_.release(nodes_[node].accessed_by);
      nodes_[node].next_retired = table_.free_nodes_;
      table_.free_nodes_ = node;
    }
  }

  // Takes all ranges out of the tree that lie in `range`, cutting those at its ends; they become `middle`.
  void take_out(AddressRange range, Index* middle) noexcept {
    Index inner = 0;
    split(root_, range.start, &root_, &inner);
    cut(&root_, &inner, range.start);
    split(inner, range.end, &inner, &right_);
    cut(&inner, &right_, range.end);
    *middle = inner;
  }

  void retire_all(Index tree) noexcept {
    if (tree == 0) return;
    retire_all(nodes_[tree].left);
    retire_all(nodes_[tree].right);
    retire(tree);
  }

  // Puts the ranges of `middle`, changed by `change`, and the gaps of `range` between them in their place. `bind` and
  // `accessed_by` are the lists of `change`.
  void put_back(AddressRange range, Index middle, const PolicyChange& change, Index bind, Index accessed_by) noexcept {
    auto changed = [&](Node node) {
      if (change.bind) node.bind = bind;
      if (change.preferred) node.preferred = *change.preferred;
      if (change.accessed_by) node.accessed_by = accessed_by;
      if (change.read_mostly) node.read_mostly = *change.read_mostly;
      return node;
    };
    std::uint64_t done = range.start;
    auto fill_gap = [&](std::uint64_t end) {
      if (done < end) append_copy(changed(Node{.range = {done, end}}));
    };
    in_order(middle, [&](Index index) {
      fill_gap(nodes_[index].range.start);
      append_copy(changed(nodes_[index]));
      done = nodes_[index].range.end;
    });
    fill_gap(range.end);
    retire_all(middle);
    // append() merges with what lies before; the range behind takes part too.
    Index after = first(right_);
    if (after != 0 && nodes_[after].range.start == range.end) append(take_first(&right_));
  }

  void close() noexcept { root_ = join(root_, right_); }

 private:
  Index allocate(const Node& contents) noexcept {
    Index index = table_.free_nodes_;
    if (index != 0) {
      table_.free_nodes_ = nodes_[index].next_retired;
      nodes_[index] = contents;
    } else {
      assert(table_.fresh_node_ < table_.node_count_);
      index = table_.fresh_node_++;
      new (&nodes_[index]) Node(contents);
    }
    ++table_.live_ranges_;
    nodes_[index].version = version_;
    table_.lists_.keep(contents.bind);
    table_.lists_.keep(contents.accessed_by);
    return index;
  }

  void retire(Index index) noexcept {
    nodes_[index].next_retired = retired_;
    retired_ = index;
    --table_.live_ranges_;
  }

  // The node itself if this change made it, else a copy.
  Index own(Index index) noexcept {
    if (nodes_[index].version == version_) return index;
    Index copy = allocate(nodes_[index]);
    retire(index);
    return copy;
  }

  std::uint32_t random() noexcept {
    std::uint32_t& x = table_.random_;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return x;
  }

  // Nodes that start before `key`, and the others.
  void split(Index tree, std::uint64_t key, Index* left, Index* right) noexcept {
    if (tree == 0) {
      *left = *right = 0;
      return;
    }
    tree = own(tree);
    if (nodes_[tree].range.start < key) {
      split(nodes_[tree].right, key, &nodes_[tree].right, right);
      *left = tree;
    } else {
      split(nodes_[tree].left, key, left, &nodes_[tree].left);
      *right = tree;
    }
  }

  // All of `a` lies before all of `b`.
  Index join(Index a, Index b) noexcept {
    if (a == 0 || b == 0) return a | b;
    if (nodes_[a].priority >= nodes_[b].priority) {
      a = own(a);
      nodes_[a].right = join(nodes_[a].right, b);
      return a;
    }
    b = own(b);
    nodes_[b].left = join(a, nodes_[b].left);
    return b;
  }

  Index last(Index tree) const noexcept {
    while (tree != 0 && nodes_[tree].right != 0) tree = nodes_[tree].right;
    return tree;
  }
  Index first(Index tree) const noexcept {
    while (tree != 0 && nodes_[tree].left != 0) tree = nodes_[tree].left;
    return tree;
  }

  Index take_last(Index* tree) noexcept {
    *tree = own(*tree);
    if (nodes_[*tree].right != 0) return take_last(&nodes_[*tree].right);
    Index taken = *tree;
    *tree = nodes_[taken].left;
    nodes_[taken].left = 0;
    return taken;
  }
  Index take_first(Index* tree) noexcept {
    *tree = own(*tree);
    if (nodes_[*tree].left != 0) return take_first(&nodes_[*tree].left);
    Index taken = *tree;
    *tree = nodes_[taken].right;
    nodes_[taken].right = 0;
    return taken;
  }

  // A range that starts in `left` and reaches beyond `key` becomes two.
  void cut(Index* left, Index* right, std::uint64_t key) noexcept {
    Index across = last(*left);
    if (across == 0 || nodes_[across].range.end <= key) return;
    across = take_last(left);
    Node tail = nodes_[across];
    tail.range.start = key;
    tail.left = tail.right = 0;
    tail.priority = random();
    nodes_[across].range.end = key;
    *left = join(*left, across);
    *right = join(allocate(tail), *right);
  }

  template <typename Visit>
  void in_order(Index tree, const Visit& visit) const noexcept {
    if (tree == 0) return;
    in_order(nodes_[tree].left, visit);
    visit(tree);
    in_order(nodes_[tree].right, visit);
  }

  // `index`, a node of this change without children, goes behind all that is in the tree.
  void append(Index index) noexcept {
    Index before = last(root_);
    const Node& node = nodes_[index];
    if (before != 0 && nodes_[before].range.end == node.range.start &&
        table_.policy_of(nodes_[before]) == table_.policy_of(node)) {
      before = take_last(&root_);
      nodes_[before].range.end = node.range.end;
      retire(index);
      index = before;
    }
    root_ = join(root_, index);
  }

  void append_copy(Node contents) noexcept {
    if (table_.policy_of(contents).empty()) return;
    contents.left = contents.right = 0;
    contents.priority = random();
    append(allocate(contents));
  }

  PolicyTable& table_;
  Node* nodes_;
  std::uint64_t version_;
  Index root_;
  Index right_ = 0;    // what lies behind the range being changed
  Index retired_ = 0;  // linked through next_retired
};

// --- the table

PolicyTable::PolicyTable(std::pmr::memory_resource* memory, const PolicyLimits& limits)
    : memory_(memory), limits_(limits), node_count_(2 * (limits.ranges + kDropReserve) + kPathReserve + 1) {
  nodes_ = static_cast<Node*>(memory_->allocate(node_count_ * sizeof(Node), alignof(Node)));
  lists_.size = limits.list_words;
  lists_.words = static_cast<std::uint32_t*>(memory_->allocate(lists_.size * sizeof(std::uint32_t), 64));
}

PolicyTable::~PolicyTable() {
  memory_->deallocate(lists_.words, lists_.size * sizeof(std::uint32_t), 64);
  memory_->deallocate(nodes_, node_count_ * sizeof(Node), alignof(Node));
}

void PolicyTable::Deleter::operator()(PolicyTable* table) const noexcept {
  table->~PolicyTable();
  memory->deallocate(table, sizeof(PolicyTable), alignof(PolicyTable));
}

Result<PolicyTable::Pointer> PolicyTable::create(std::pmr::memory_resource* memory, const PolicyLimits& limits) {
  try {
    void* place = memory->allocate(sizeof(PolicyTable), alignof(PolicyTable));
    try {
      return Pointer(new (place) PolicyTable(memory, limits), Deleter{memory});
    } catch (...) {
      memory->deallocate(place, sizeof(PolicyTable), alignof(PolicyTable));
      throw;
    }
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::kOutOfHostMemory, "no memory for the table of range policies");
  }
}

Policy PolicyTable::policy_of(const Node& node) const noexcept {
  return {lists_.get(node.bind), node.preferred, lists_.get(node.accessed_by), node.read_mostly};
}

void PolicyTable::lock() noexcept {
  lock_.lock();
  apply_pending_drops();
}

void PolicyTable::unlock() noexcept {
  do {
    apply_pending_drops();
    lock_.unlock();
    // Noted between the two: whoever gets the lock applies it.
  } while (drops_pending() && lock_.try_lock());
}

bool PolicyTable::drops_pending() const noexcept {
  return pending_tail_.load(std::memory_order_acquire) != pending_head_.load(std::memory_order_acquire) ||
         drop_all_wanted_.load(std::memory_order_acquire) != drop_all_done_.load(std::memory_order_acquire);
}

void PolicyTable::apply_pending_drops() noexcept {
  std::uint64_t all = drop_all_wanted_.load(std::memory_order_acquire);
  if (all != drop_all_done_.load(std::memory_order_relaxed)) {
    drop_locked({0, ~std::uint64_t{0}});
    drop_all_done_.store(all, std::memory_order_release);
  }
  std::uint64_t tail = pending_tail_.load(std::memory_order_acquire);
  for (std::uint64_t head = pending_head_.load(std::memory_order_relaxed); head != tail; ++head) {
    const Drop& drop = pending_[head % kPendingDrops];
    drop_locked({drop.start.load(std::memory_order_relaxed), drop.end.load(std::memory_order_relaxed)});
    pending_head_.store(head + 1, std::memory_order_release);
  }
}

void PolicyTable::wait_for_readers() noexcept {
  std::uint32_t old_phase = phase_.load(std::memory_order_relaxed);
  phase_.store(1 - old_phase, std::memory_order_seq_cst);
  for (unsigned spins = 0; readers_[old_phase].load(std::memory_order_seq_cst) != 0; ++spins) {
    if (spins < 1000) {
      cpu_relax();
    } else {
      raw_syscall(SYS_sched_yield);
    }
  }
}

int PolicyTable::change(AddressRange range, const PolicyChange& change) noexcept {
  assert(range.start < range.end);
  lock();
  // Each gap in the range becomes a range of its own, and its ends cut what lies across them.
  std::uint32_t more = 2;
  std::uint64_t done = range.start;
  visit_nodes(root_.load(std::memory_order_relaxed), range, [&](const Node& node) {
    more += node.range.start > done ? 1 : 0;
    done = node.range.end;
  });
  more += done < range.end ? 1 : 0;
  auto make_list = [&](const std::optional<std::span<const Uid>>& uids, bool* no_room) -> Index {
    if (!uids || uids->empty()) return 0;
    Index list = lists_.add(*uids);
    *no_room |= list == 0;
    return list;
  };
  bool no_room = live_ranges_ + more > limits_.ranges;
  Index bind = no_room ? 0 : make_list(change.bind, &no_room);
  Index accessed_by = no_room ? 0 : make_list(change.accessed_by, &no_room);
  if (!no_room) {
    PolicyEdit edit(*this);
    Index middle;
    edit.take_out(range, &middle);
    edit.put_back(range, middle, change, bind, accessed_by);
    edit.close();
    edit.publish();
  }
  lists_.release(bind);
  lists_.release(accessed_by);
  unlock();
  return no_room ? -ENOMEM : 0;
}

void PolicyTable::drop_locked(AddressRange range) noexcept {
  std::uint32_t met = 0;
  AddressRange only{};
  visit_nodes(root_.load(std::memory_order_relaxed), range, [&](const Node& node) {
    ++met;
    only = node.range;
  });
  if (met == 0) return;
  bool cuts_in_two = met == 1 && only.start < range.start && range.end < only.end;
  if (cuts_in_two && live_ranges_ + 1 > limits_.ranges + kDropReserve) range = only;
  PolicyEdit edit(*this);
  Index middle;
  edit.take_out(range, &middle);
  edit.retire_all(middle);
  edit.close();
  edit.publish();
}

void PolicyTable::drop(AddressRange range) noexcept {
  lock();
  drop_locked(range);
  unlock();
}

void PolicyTable::for_each(AddressRange range, const std::function<void(AddressRange, const Policy&)>& visit) noexcept {
  lock();
  visit_nodes(root_.load(std::memory_order_relaxed), range,
              [&](const Node& node) { visit(node.range, policy_of(node)); });
  unlock();
}

std::uint32_t PolicyTable::range_count() noexcept {
  lock();
  std::uint32_t count = live_ranges_;
  unlock();
  return count;
}

void PolicyTable::reset_in_child() noexcept {
  new (&lock_) FutexLock;
  free_nodes_ = 0;
  fresh_node_ = 1;
  live_ranges_ = 0;
  lists_.used = 1;
  lists_.lists = 0;
  std::ranges::fill(lists_.free, 0);
  root_.store(0);
  for (auto& readers : readers_) readers.store(0);
  pending_head_.store(pending_tail_.load());
  drop_all_done_.store(drop_all_wanted_.load());
}

bool PolicyTable::may_have_policy(AddressRange range) const noexcept {
  constexpr int kSteps = 32;
  PolicyReader reader(*this);
  std::uint64_t address = range.start;
  for (int step = 0; step < kSteps && address < range.end; ++step) {
    auto found = reader.find(address);
    if (!found.policy.empty()) return true;
    address = found.range.end;
  }
  return address < range.end;
}

void PolicyTable::drop_unmapped(AddressRange range) noexcept {
  if (!lock_.try_lock()) {
    std::uint64_t tail = pending_tail_.load(std::memory_order_relaxed);
    std::uint64_t waiting = tail - pending_head_.load(std::memory_order_acquire);
    // With room to spare all is noted, also what a change that is under way may be about to set.
    if (waiting > kPendingDrops / 2 && !may_have_policy(range)) return;
    if (waiting == kPendingDrops) {
      drop_all_wanted_.fetch_add(1, std::memory_order_release);
    } else {
      Drop& drop = pending_[tail % kPendingDrops];
      drop.start.store(range.start, std::memory_order_relaxed);
      drop.end.store(range.end, std::memory_order_relaxed);
      pending_tail_.store(tail + 1, std::memory_order_release);
    }
    // The holder may have left without seeing the note.
    if (!lock_.try_lock()) return;
    unlock();
    return;
  }
  apply_pending_drops();
  drop_locked(range);
  unlock();
}

// --- readers

PolicyReader::PolicyReader(const PolicyTable& table) noexcept : table_(table) {
  for (;;) {
    phase_ = table.phase_.load(std::memory_order_seq_cst);
    table.readers_[phase_].fetch_add(1, std::memory_order_seq_cst);
    if (table.phase_.load(std::memory_order_seq_cst) == phase_) return;
    table.readers_[phase_].fetch_sub(1, std::memory_order_release);  // a change came between
  }
}

PolicyReader::~PolicyReader() {
  table_.readers_[phase_].fetch_sub(1, std::memory_order_release);
}

PolicyReader::Found PolicyReader::find(std::uint64_t address) const noexcept {
  AddressRange bounds{0, ~std::uint64_t{0}};
  // First the notes, then the tree: what is no longer noted has been applied.
  bool dropped =
      table_.drop_all_done_.load(std::memory_order_acquire) != table_.drop_all_wanted_.load(std::memory_order_acquire);
  std::uint64_t head = table_.pending_head_.load(std::memory_order_acquire);
  std::uint64_t tail = table_.pending_tail_.load(std::memory_order_acquire);
  for (; head != tail; ++head) {
    const PolicyTable::Drop& drop = table_.pending_[head % PolicyTable::kPendingDrops];
    AddressRange gone{drop.start.load(std::memory_order_relaxed), drop.end.load(std::memory_order_relaxed)};
    if (gone.contains(address)) {
      dropped = true;
      bounds = {std::max(bounds.start, gone.start), std::min(bounds.end, gone.end)};
    } else if (gone.end <= address) {
      bounds.start = std::max(bounds.start, gone.end);
    } else {
      bounds.end = std::min(bounds.end, gone.start);
    }
  }
  PolicyTable::Index index = dropped ? 0 : table_.root_.load(std::memory_order_seq_cst);
  while (index != 0) {
    const PolicyTable::Node& node = table_.nodes_[index];
    if (address < node.range.start) {
      bounds.end = std::min(bounds.end, node.range.start);
      index = node.left;
    } else if (address >= node.range.end) {
      bounds.start = std::max(bounds.start, node.range.end);
      index = node.right;
    } else {
      return {{std::max(bounds.start, node.range.start), std::min(bounds.end, node.range.end)}, table_.policy_of(node)};
    }
  }
  return {bounds, {}};
}

}  // namespace mirrorcl::hms
