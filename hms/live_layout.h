// SPDX-License-Identifier: Apache-2.0
// What a process with a mirror publishes about itself: plain data in a shared memory object that any process with the
// right to look at it reads, without stopping anything. mirror/live.h writes it, hms/live_view.h reads it.
//
// The object is a memfd named kObjectName, which a reader finds among the links of /proc/PID/fd and opens there
// read-only. It is sealed: nobody else can write it, and its size does not change. The kernel asks for the right to
// trace the process (as for /proc/PID/mem), and nothing is left behind when the process ends.
//
// Layout, version 1. Little endian, natural alignment. The header says where the tables lie (`Table`); a reader steps
// by their `stride`, so entries may grow at their end without a new version, and so may the header, which tells its
// size. Fields of a table's entries that a reader does not find (stride too small) do not exist; it ignores those it
// does not know. What cannot be read so has another version.
//
//   table            entry            written by
//   counter_names    Name             at start
//   counters         std::uint64_t    the service thread, each by one store
//   histograms       Histogram        the service thread, each field by one store
//   decisions        Decision         the service thread, under the entry's sequence; a ring
//   blocks           Block            the service thread, under the entry's sequence; unused ones have base 0
//   devices          Device           when a device is joined, under the entry's sequence
//   topology         char             an application thread, under Header::topology_sequence
//   allocations      Decision         an application thread, as decisions; a ring of its own
//
// A sequence is odd while what it guards is being written. A reader copies it, then the entry, then the sequence again,
// and takes the entry if both are the same even number.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hms/topology.h"

namespace mirrorcl::hms::live {

inline constexpr char kObjectName[] = "mirrorcl-live";
inline constexpr std::uint64_t kMagic = 0x4556'494c'2d4c'434d;  // "MCL-LIVE"
inline constexpr std::uint32_t kVersion = 1;

struct Table {
  std::uint64_t offset;  // bytes from the start of the object
  std::uint32_t count;   // entries
  std::uint32_t stride;  // bytes from one to the next
};

struct Header {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t size;        // of this structure
  std::int32_t pid;          // in its own namespace
  std::uint32_t ended;       // 1: the mirror was stopped, and nothing changes any more
  std::uint64_t started_ns;  // CLOCK_MONOTONIC, as all times here
  Table counter_names;
  Table counters;
  Table histograms;
  Table decisions;
  Table blocks;
  Table devices;
  Table topology;
  std::uint64_t decisions_made;     // the newest is decisions[(decisions_made - 1) % count]
  std::uint64_t blocks_unlisted;    // how often a block was not listed because the table was full
  std::uint32_t blocks_used;        // no entry from this one on has ever been used
  std::uint32_t topology_sequence;  // odd while the topology is being written; 0: none yet
  std::uint32_t topology_size;      // characters, as hms::to_json() writes it
  std::uint32_t reserved;
  // --- not in the first MirrorCL's
  Table allocations;
  std::uint64_t allocations_made;  // the newest is allocations[(allocations_made - 1) % count]
};

inline constexpr std::size_t kNameSize = 40;
struct Name {
  char text[kNameSize];  // zero-terminated
};

// How often a value was seen, by its size: bucket 0 counts zeros, bucket i values in [2^(i-1), 2^i), and the last one
// all that are greater too.
inline constexpr std::size_t kBuckets = 48;
struct Histogram {
  char name[kNameSize];
  char unit[8];  // "ns", "bytes"
  std::uint64_t count;
  std::uint64_t sum;
  std::uint64_t max;
  std::uint64_t buckets[kBuckets];
};

// --- who and where. Uids are those of the topology that is published, but for these, which need none:
inline constexpr Uid kHostThreads = 0xffff'ff00;  // the application's threads, whichever CPU they run on
inline constexpr Uid kHostMemory = 0xffff'ff01;   // the application's own pages, on whichever node
inline constexpr Uid kNowhere = 0xffff'ff02;      // never touched, or thrown away
inline constexpr std::uint32_t kMaxDevices = 6;
// Entry i of `devices`, which may be in the topology by now.
constexpr Uid device_initiator(std::uint32_t i) {
  return 0xffff'ff10 + i;
}
constexpr Uid device_memory(std::uint32_t i) {
  return 0xffff'ff20 + i;
}

struct Device {
  std::uint32_t sequence;
  Uid initiator;  // in the published topology; kNoUid: not in it
  Uid target;     // likewise; kNoUid also: it has no memory of its own
  std::uint32_t attached;
  std::uint64_t memory_size;  // bytes
  char name[kNameSize];
};

// One decision about where pages live. Decision n, counted from 0, lies at n % count and has sequence
// 2 * (n / count + 1) modulo 2^32.
struct Decision {
  static constexpr std::uint8_t kEvicts = 1;      // something else had to leave first
  static constexpr std::uint8_t kHasPolicy = 2;   // the program had asked for something here
  static constexpr std::uint8_t kReadMostly = 4;  // this, among others
  static constexpr std::uint8_t kAllocation = 8;  // of SVM memory or a buffer, which lies there until it is freed
  static constexpr std::size_t kBindListed = 4;

  std::uint32_t sequence;
  std::uint8_t action;  // hms::Action
  std::uint8_t reason;  // hms::Reason
  std::uint8_t access;  // hms::Access
  std::uint8_t flags;
  std::uint64_t time_ns;
  std::uint64_t address;  // of the first page
  std::uint32_t pages;
  Uid requester;
  Uid from;
  Uid to;
  // The policy that applied; only with kHasPolicy.
  Uid preferred;
  std::uint16_t bind_count;
  std::uint16_t accessed_by_count;
  Uid bind[kBindListed];  // the first ones
};
static_assert(sizeof(Decision) == 64, "one cache line");

// Pages of a block of 2 MiB that devices have, by device. A page that neither is nor was on a device is in no count.
struct Block {
  struct Pages {
    std::uint16_t only;        // live in the device's memory
    std::uint16_t duplicated;  // there and with the application, both read-only
    std::uint16_t coherent;    // there, and mapped by the application too
    std::uint16_t snapshot;    // the application's, with a read-only copy there
  };
  std::uint32_t sequence;
  std::uint32_t reserved;
  std::uint64_t base;  // address; 0: this entry is not in use
  Pages devices[kMaxDevices];
};
static_assert(sizeof(Block) == 64, "one cache line");

}  // namespace mirrorcl::hms::live
