// SPDX-License-Identifier: Apache-2.0
// Reading what a process publishes: an object made here by hand, as the layout says, and many that are damaged.
// (mirror/live_process_test.cpp has a real process.)
#include "hms/live_view.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "hms/json_file.h"
#include "hms/placement.h"
#include "hms/reference_machine.h"

namespace mirrorcl::hms {
namespace {

struct Object {
  live::Header header;
  live::Name names[2];
  std::uint64_t counters[2];
  live::Histogram histograms[1];
  live::Decision decisions[4];
  live::Block blocks[4];
  live::Device devices[2];
  live::Decision allocations[2];
  char topology[1 << 15];
};

void set_text(char* to, std::string_view text) {
  std::memcpy(to, text.data(), text.size());
}

Object good_object() {
  Object o{};
  const auto table = [&](const auto& array) {
    const auto offset = reinterpret_cast<const char*>(array) - reinterpret_cast<const char*>(&o);
    return live::Table{static_cast<std::uint64_t>(offset), static_cast<std::uint32_t>(std::size(array)),
                       sizeof array[0]};
  };
  o.header.magic = live::kMagic;
  o.header.version = live::kVersion;
  o.header.size = sizeof o.header;
  o.header.pid = getpid();
  o.header.counter_names = table(o.names);
  o.header.counters = table(o.counters);
  o.header.histograms = table(o.histograms);
  o.header.decisions = table(o.decisions);
  o.header.blocks = table(o.blocks);
  o.header.devices = table(o.devices);
  o.header.topology = table(o.topology);
  o.header.allocations = table(o.allocations);
  o.header.allocations_made = 2;
  for (live::Decision& allocation : o.allocations) {
    allocation.sequence = 2;
    allocation.address = 0x5000;
    allocation.flags = live::Decision::kAllocation;
  }
  set_text(o.names[0].text, "faults");
  set_text(o.names[1].text, "\033[31mred\n");
  o.counters[0] = 7;
  set_text(o.histograms[0].name, "time");
  set_text(o.histograms[0].unit, "ns");
  o.histograms[0].count = 4;
  o.histograms[0].sum = 1000;
  o.histograms[0].max = 900;
  o.histograms[0].buckets[4] = 3;
  o.histograms[0].buckets[10] = 1;
  // Six decisions in a ring of four; the fifth is being written.
  o.header.decisions_made = 6;
  for (std::uint32_t n = 2; n < 6; ++n) {
    live::Decision& decision = o.decisions[n % 4];
    decision.sequence = 2 * (n / 4 + 1) - (n == 5 ? 1 : 0);
    decision.address = n * 4096;
    decision.pages = 1;
    decision.reason = static_cast<std::uint8_t>(Reason::kOnlyWay);
  }
  o.header.blocks_used = 3;
  o.blocks[0].base = 0x600000;
  o.blocks[2].base = 0x200000;
  o.blocks[2].devices[0] = {.only = 5, .duplicated = 6, .coherent = 7, .snapshot = 8};
  o.devices[0].attached = 1;
  o.devices[0].initiator = 1;
  o.devices[0].target = kNoUid;
  set_text(o.devices[0].name, "mirrorcl:0");
  const std::string topology = to_json(reference_machine());
  EXPECT_LT(topology.size(), sizeof o.topology);
  set_text(o.topology, topology);
  o.header.topology_size = static_cast<std::uint32_t>(topology.size());
  o.header.topology_sequence = 2;
  return o;
}

Result<LiveState> read(const void* contents, std::size_t size) {
  UniqueFd file(memfd_create("object", MFD_CLOEXEC));
  EXPECT_EQ(write(file.get(), contents, size), static_cast<ssize_t>(size));
  return read_live_object(file.get());
}

TEST(LiveViewTest, ReadsWhatTheLayoutSays) {
  const Object object = good_object();
  const auto state = read(&object, sizeof object);
  ASSERT_TRUE(state) << state.error().message;
  ASSERT_EQ(state->counters.size(), 2U);
  EXPECT_EQ(state->counters[0], (std::pair<std::string, std::uint64_t>{"faults", 7}));
  EXPECT_EQ(state->counters[1].first, "?[31mred?") << "nothing that a terminal obeys";
  ASSERT_EQ(state->histograms.size(), 1U);
  EXPECT_EQ(state->histograms[0].unit, "ns");
  EXPECT_EQ(state->histograms[0].quantile(0.5), 15U);
  EXPECT_EQ(state->histograms[0].quantile(0.99), 900U);
  ASSERT_EQ(state->decisions.size(), 3U) << "without the one that is being written";
  EXPECT_EQ(state->decisions[0].number, 2U);
  EXPECT_EQ(state->decisions[2].address, 4 * 4096U);
  ASSERT_EQ(state->allocations.size(), 2U);
  EXPECT_EQ(state->allocations[1].address, 0x5000U);
  ASSERT_EQ(state->blocks.size(), 2U);
  EXPECT_EQ(state->blocks[0].base, 0x200000U);
  EXPECT_EQ(state->block(0x3fffff), &state->blocks[0]);
  EXPECT_EQ(state->block(0x400000), nullptr);
  EXPECT_EQ(state->block(0x3fffff)->devices[0].coherent, 7U);
  ASSERT_EQ(state->devices.size(), 1U);
  EXPECT_EQ(state->topology, reference_machine());
}

// Its header ended earlier, and what follows it is something else.
TEST(LiveViewTest, ReadsWhatAnOlderMirrorPublishes) {
  Object object = good_object();
  object.header.size = offsetof(live::Header, allocations);
  std::memset(&object.header.allocations, 0xee, sizeof object.header - object.header.size);
  const auto state = read(&object, sizeof object);
  ASSERT_TRUE(state) << state.error().message;
  EXPECT_EQ(state->decisions.size(), 3U);
  EXPECT_TRUE(state->allocations.empty());
  EXPECT_EQ(state->topology, reference_machine());
}

TEST(LiveViewTest, NamesWhoAndWhere) {
  Object object = good_object();
  const Topology machine = reference_machine();
  const Uid target = machine.targets().front().uid;
  object.devices[0].initiator = machine.initiators().front().uid;
  auto state = read(&object, sizeof object);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->name_of(target), machine.targets().front().name);
  EXPECT_EQ(state->name_of(live::device_initiator(0)), machine.initiators().front().name);
  EXPECT_EQ(state->name_of(live::device_memory(0)), "mirrorcl:0's memory");
  EXPECT_EQ(state->name_of(live::device_memory(1)), "device 1's memory");
  EXPECT_EQ(state->name_of(live::kHostMemory), "host memory");
  EXPECT_EQ(state->name_of(123'456), "object 123456");
  EXPECT_EQ(state->name_of(kNoUid), "object 4294967295");
}

TEST(LiveViewTest, EntriesMayGrowAtTheirEnd) {
  Object object = good_object();
  // The same two counters, two words apart: the second name's counter is the histogram's first word.
  object.header.counters.stride = 16;
  object.header.counters.count = 2;
  const auto state = read(&object, sizeof object);
  ASSERT_TRUE(state) << state.error().message;
  EXPECT_EQ(state->counters[0].second, 7U);
}

TEST(LiveViewTest, OtherVersionsAreRefusedWithAdvice) {
  Object object = good_object();
  object.header.version = 2;
  const auto state = read(&object, sizeof object);
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code, ErrorCode::kNotSupported);
  EXPECT_NE(state.error().message.find("version 2"), std::string::npos);
}

TEST(LiveViewTest, CountsThatLieAreErrors) {
  struct Case {
    live::Table live::Header::*table;
    live::Table value;
  };
  const std::uint64_t far = ~std::uint64_t{0} - 100;
  for (const auto table : {&live::Header::counters, &live::Header::counter_names, &live::Header::histograms,
                           &live::Header::decisions, &live::Header::blocks, &live::Header::devices}) {
    const live::Table good = good_object().header.*table;
    for (const live::Table bad : {live::Table{far, good.count, good.stride}, live::Table{good.offset, ~0U, good.stride},
                                  live::Table{good.offset, good.count, ~0U}, live::Table{good.offset, good.count, 0},
                                  live::Table{sizeof(Object), good.count, good.stride}}) {
      Object object = good_object();
      object.header.*table = bad;
      object.header.decisions_made = ~std::uint64_t{0};
      object.header.blocks_used = ~0U;
      // Fewer entries than the table claims may be in use; nothing is read then that does not lie there.
      if (auto state = read(&object, sizeof object)) {
        EXPECT_EQ(bad.count, ~0U);
        EXPECT_NE(table, &live::Header::decisions);
      }
    }
  }
}

TEST(LiveViewTest, TruncatedObjectsAreErrors) {
  const Object object = good_object();
  for (std::size_t size = 0; size < offsetof(Object, topology); size += 8) {
    EXPECT_FALSE(read(&object, size)) << size;
  }
  const auto state = read(&object, offsetof(Object, topology) + 100);
  ASSERT_TRUE(state) << "a topology that is not whole is none";
  EXPECT_FALSE(state->topology);
}

TEST(LiveViewTest, DamagedObjectsDoNoHarm) {
  std::mt19937 random(1);
  const Object good = good_object();
  for (int round = 0; round < 3000; ++round) {
    std::vector<char> bytes(sizeof good);
    std::memcpy(bytes.data(), &good, sizeof good);
    const std::size_t changes = 1 + random() % 8;
    for (std::size_t i = 0; i < changes; ++i) {
      // The header most of all.
      const std::size_t at = random() % (random() % 2 == 0 ? sizeof good.header : sizeof good);
      bytes[at] = static_cast<char>(random());
    }
    std::memcpy(bytes.data(), &good.header.magic, 16);  // or nothing else would be looked at
    auto state = read(bytes.data(), bytes.size());
    if (!state) continue;
    EXPECT_LE(state->decisions.size(), sizeof(Object) / sizeof(live::Decision));
    for (const LiveDecision& decision : state->decisions) EXPECT_FALSE(state->name_of(decision.requester).empty());
    for (const LiveHistogram& histogram : state->histograms) (void)histogram.quantile(0.9);
  }
}

TEST(LiveViewTest, WhatIsNoFileIsRefused) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_FALSE(read_live_object(ends[0]));
  close(ends[0]);
  close(ends[1]);
  UniqueFd huge(memfd_create("huge", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(huge.get(), off_t{1} << 46), 0);
  EXPECT_FALSE(read_live_object(huge.get()));
}

TEST(LiveViewTest, SaysWhyThereIsNothingToSee) {
  auto missing = LiveView::open(0x3fffffff);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, "there is no process 1073741823");
  auto own = LiveView::open(getpid());
  ASSERT_FALSE(own);
  EXPECT_NE(own.error().message.find("has no mirror"), std::string::npos) << own.error().message;
  EXPECT_EQ(own.error().code, ErrorCode::kNotSupported);
}

TEST(LiveViewTest, AnotherUsersProcessIsNotShown) {
  const pid_t child = fork();
  if (child == 0) {
    // Root gives its rights up; anybody else has none to init.
    const pid_t other = getuid() == 0 ? getppid() : 1;
    if (getuid() == 0 && setuid(65534) != 0) _exit(2);
    const auto view = LiveView::open(other);
    _exit(!view && view.error().message.find("run as its user or as root") != std::string::npos ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace mirrorcl::hms
