// SPDX-License-Identifier: Apache-2.0
// NUMA nodes of the application's memory: on which one a page lies, on which one a thread runs, and where the pages
// come from that the mirror allocates in the application's place. The kernel would take a page from the node of the
// thread that touches it; the thread that has it allocated here is another.
//
// On a machine with one node, nothing of it makes a system call.
//
// Locking: service thread only, but for open() and OnNode.
#pragma once

#include <array>
#include <cstdint>
#include <memory_resource>
#include <string_view>
#include <vector>

namespace mirrorcl::mirror {

inline constexpr int kUnknownNode = -1;

class HostNodes {
 public:
  // `memory` never migrates.
  explicit HostNodes(std::pmr::memory_resource* memory) : node_of_cpu_(memory) {}

  // Reads which CPUs belong to which nodes, and the policy of the calling thread, which the mirror's threads inherit.
  // Before they start.
  void open(std::string_view sysfs = "/sys/devices/system/node");

  // The machine has several nodes.
  bool several() const noexcept { return several_; }

  // The mirror's threads allocate as the process does by default: near who touches the page.
  bool follows_threads() const noexcept { return follows_threads_; }

  // Where the application's page at `address` is; kUnknownNode: it has none, or this is not to be told.
  int node_of(std::uint64_t address) const noexcept;
  // The memory at `address` has a policy of its own (mbind); never on a machine with one node.
  bool has_policy(std::uint64_t address) const noexcept;
  // Where thread `id` of this process ran last, up to 10 ms ago.
  int node_of_thread(std::uint32_t id) noexcept;
  // Where the kernel would allocate a page that thread `id` touches, if no policy is set for the page: the node of the
  // thread. kUnknownNode: the process has a policy of its own, which the mirror's threads have too.
  int allocation_of(std::uint32_t id) noexcept { return follows_threads_ ? node_of_thread(id) : kUnknownNode; }

  // The CPU in a line of /proc/PID/stat; -1: there is none.
  static int cpu_in_stat(std::string_view line) noexcept;

 private:
  struct Seen {
    std::uint32_t thread = 0;
    int node = kUnknownNode;
    std::uint64_t until_ns = 0;
  };
  int look_up(std::uint32_t id) const noexcept;

  bool several_ = false;
  bool follows_threads_ = false;
  std::pmr::vector<std::int16_t> node_of_cpu_;
  std::array<Seen, 64> seen_{};  // by thread
};

// While it lives, pages that the calling thread has allocated come from `node` as long as that has room, but for memory
// that has a policy of its own. kUnknownNode: nothing changes. For threads with the default policy, and of the mirror's
// own only.
class OnNode {
 public:
  explicit OnNode(int node) noexcept;
  ~OnNode();
  OnNode(const OnNode&) = delete;
  OnNode& operator=(const OnNode&) = delete;

 private:
  bool changed_ = false;
};

}  // namespace mirrorcl::mirror
