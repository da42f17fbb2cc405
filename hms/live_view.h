// SPDX-License-Identifier: Apache-2.0
// What a live process with a mirror says about itself (live_layout.h), read from outside and without stopping it.
//
//   auto view = LiveView::open(pid);
//   auto state = view->read();              // again whenever newer numbers are wanted
//
// What is read was written by another process, perhaps a hostile one: every offset and count is checked, text is made
// printable, and a damaged object is an error.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "hms/api.h"
#include "hms/live_layout.h"
#include "hms/topology.h"

namespace mirrorcl::hms {

struct LiveHistogram {
  std::string name;
  std::string unit;  // "ns", "bytes"
  std::uint64_t count = 0;
  std::uint64_t sum = 0;
  std::uint64_t max = 0;
  std::vector<std::uint64_t> buckets;  // by power of two: bucket i holds values below 2^i, from 2^(i-1) on

  // A value that at least `share` (0 to 1) of all are not above: the end of a bucket, or the greatest.
  HMS_API std::uint64_t quantile(double share) const;
};

struct LiveDecision : live::Decision {
  std::uint64_t number;  // counted from 0 since the start
};

struct LiveDevice {
  std::uint32_t index = 0;
  std::string name;
  Uid initiator = kNoUid;
  Uid target = kNoUid;
  std::uint64_t memory_size = 0;
};

struct LiveState {
  pid_t pid = 0;
  std::string command;
  bool ended = false;            // the mirror was stopped
  std::uint64_t started_ns = 0;  // CLOCK_MONOTONIC
  std::uint64_t read_ns = 0;
  std::vector<std::pair<std::string, std::uint64_t>> counters;
  std::vector<LiveHistogram> histograms;
  std::uint64_t decisions_made = 0;
  std::vector<LiveDecision> decisions;    // the last ones, oldest first
  std::vector<LiveDecision> allocations;  // likewise: decisions where SVM memory and buffers lie
  std::vector<live::Block> blocks;        // by address
  std::uint64_t blocks_unlisted = 0;      // how often the process had no room to list a block
  std::vector<LiveDevice> devices;
  std::optional<Topology> topology;  // that uids refer to; nothing: not published yet

  // The block around `address`; null: devices have nothing of it.
  HMS_API const live::Block* block(std::uint64_t address) const;
  // Of an initiator or a target, as decisions name them.
  HMS_API std::string name_of(Uid uid) const;
  // What `uid` is in the topology; kNoUid: it is not in it.
  HMS_API Uid in_topology(Uid uid) const;
};

class HMS_API LiveView {
 public:
  // kInvalidArgument: no such process, or not one that this user may look at; kNotSupported: it has no mirror, or one
  // of another version. The message says what to do.
  static Result<LiveView> open(pid_t pid);

  // kSystem if the process has ended meanwhile (what it published last can still be read, with `dead` true), or if what
  // it publishes makes no sense.
  Result<LiveState> read(bool dead = false) const;
  bool process_has_ended() const noexcept;

 private:
  LiveView(pid_t pid, UniqueFd process, UniqueFd object)
      : pid_(pid), process_(std::move(process)), object_(std::move(object)) {}

  pid_t pid_;
  UniqueFd process_;  // a pidfd; none before Linux 5.3
  UniqueFd object_;
};

// Reads what the file `fd` publishes; for tests, and for objects that were saved.
HMS_API Result<LiveState> read_live_object(int fd);

// `text` with what does not belong on a terminal replaced by '?'.
HMS_API std::string printable(std::string_view text);

}  // namespace mirrorcl::hms
