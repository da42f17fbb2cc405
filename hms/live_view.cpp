// SPDX-License-Identifier: Apache-2.0
#include "hms/live_view.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "hms/json_file.h"

namespace mirrorcl::hms {
namespace {

// No honest object comes near; a dishonest one must not cost all memory.
constexpr std::uint64_t kLargestObject = std::uint64_t{256} << 20;
constexpr std::size_t kFirstHeaderSize = offsetof(live::Header, allocations);
// Tries at a part that is being written whenever it is looked at.
constexpr int kTries = 20;

tl::unexpected<Error> damaged(const char* what) {
  return fail(ErrorCode::kSystem, fmt::format("what it publishes is damaged: {}", what));
}

std::uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

std::string text_of(const char* text, std::size_t size) {
  return printable({text, strnlen(text, size)});
}

// The last number of the NSpid line: what the process calls itself. -1 if it cannot be read.
pid_t pid_in_its_namespace(pid_t pid) {
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("NSpid:")) continue;
    std::istringstream numbers(line.substr(6));
    pid_t last = -1;
    for (pid_t number; numbers >> number;) last = number;
    return last;
  }
  return -1;
}

// Reads tables of one object, each checked against its size.
class Reader {
 public:
  Reader(int fd, std::uint64_t size) : fd_(fd), size_(size) {}

  bool read(std::uint64_t offset, void* to, std::size_t size) const {
    if (offset > size_ || size > size_ - offset) return false;
    for (std::size_t done = 0; done < size;) {
      const ssize_t count = pread(fd_, static_cast<char*>(to) + done, size - done, static_cast<off_t>(offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      done += static_cast<std::size_t>(count);
    }
    return true;
  }

  // The first `count` entries of `table`, as far as this version knows them.
  template <typename Entry>
  bool entries(const live::Table& table, std::uint32_t count, std::vector<Entry>* result) const {
    const std::uint64_t bytes = std::uint64_t{count} * table.stride;
    if (count > table.count || table.stride < sizeof(Entry) || table.offset > size_ || bytes > size_ - table.offset) {
      return false;
    }
    std::vector<char> raw(bytes);
    if (!read(table.offset, raw.data(), bytes)) return false;
    result->resize(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      std::memcpy(&(*result)[i], raw.data() + std::size_t{i} * table.stride, sizeof(Entry));
    }
    return true;
  }

  // Entries that each carry a sequence: `before` and `after` hold those of a look before and one after.
  template <typename Entry>
  bool guarded(const live::Table& table, std::uint32_t count, std::vector<Entry>* result,
               std::vector<bool>* whole) const {
    std::vector<Entry> before;
    std::vector<Entry> after;
    if (!entries(table, count, &before) || !entries(table, count, result) || !entries(table, count, &after)) {
      return false;
    }
    whole->resize(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t sequence = (*result)[i].sequence;
      (*whole)[i] = sequence % 2 == 0 && before[i].sequence == sequence && after[i].sequence == sequence;
    }
    return true;
  }

 private:
  int fd_;
  std::uint64_t size_;
};

bool read_counters(const Reader& reader, const live::Header& header, LiveState* state) {
  std::vector<live::Name> names;
  std::vector<std::uint64_t> values;
  const std::uint32_t count = std::min(header.counter_names.count, header.counters.count);
  if (!reader.entries(header.counter_names, count, &names) || !reader.entries(header.counters, count, &values)) {
    return false;
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    state->counters.emplace_back(text_of(names[i].text, live::kNameSize), values[i]);
  }
  return true;
}

bool read_histograms(const Reader& reader, const live::Header& header, LiveState* state) {
  std::vector<live::Histogram> histograms;
  if (!reader.entries(header.histograms, header.histograms.count, &histograms)) return false;
  for (const live::Histogram& from : histograms) {
    state->histograms.push_back({text_of(from.name, sizeof from.name),
                                 text_of(from.unit, sizeof from.unit),
                                 from.count,
                                 from.sum,
                                 from.max,
                                 {std::begin(from.buckets), std::end(from.buckets)}});
  }
  return true;
}

// The ring `table`, of which `made` entries have been written so far.
bool read_ring(const Reader& reader, const live::Table& table, std::uint64_t made, std::vector<LiveDecision>* result) {
  const std::uint32_t size = table.count;
  if (size == 0) return false;
  const auto filled = static_cast<std::uint32_t>(std::min<std::uint64_t>(size, made));
  std::vector<live::Decision> entries;
  std::vector<bool> whole;
  if (!reader.guarded(table, filled, &entries, &whole)) return false;
  for (std::uint64_t n = made - filled; n < made; ++n) {
    const live::Decision& entry = entries[n % size];
    // Overwritten since the header was read, if it is not of this lap.
    if (!whole[n % size] || entry.sequence != static_cast<std::uint32_t>(2 * (n / size + 1))) continue;
    result->push_back({entry, n});
  }
  return true;
}

bool read_decisions(const Reader& reader, const live::Header& header, LiveState* state) {
  state->decisions_made = header.decisions_made;
  if (!read_ring(reader, header.decisions, header.decisions_made, &state->decisions)) return false;
  // An older MirrorCL tells of none.
  return header.allocations_made == 0 ||
         read_ring(reader, header.allocations, header.allocations_made, &state->allocations);
}

bool read_blocks(const Reader& reader, const live::Header& header, LiveState* state) {
  state->blocks_unlisted = header.blocks_unlisted;
  std::vector<live::Block> entries;
  if (!reader.entries(header.blocks, std::min(header.blocks_used, header.blocks.count), &entries)) return false;
  // Without a look at the sequence: one that changes just now is shown all the same, with numbers of two moments.
  std::ranges::copy_if(entries, std::back_inserter(state->blocks), [](const live::Block& b) { return b.base != 0; });
  std::ranges::stable_sort(state->blocks, {}, &live::Block::base);
  return true;
}

bool read_devices(const Reader& reader, const live::Header& header, LiveState* state) {
  std::vector<live::Device> entries;
  std::vector<bool> whole;
  if (!reader.guarded(header.devices, header.devices.count, &entries, &whole)) return false;
  for (std::uint32_t i = 0; i < entries.size(); ++i) {
    const live::Device& from = entries[i];
    if (!whole[i] || from.attached == 0) continue;
    state->devices.push_back({i, text_of(from.name, sizeof from.name), from.initiator, from.target, from.memory_size});
  }
  return true;
}

// What an older header does not have is zero.
bool read_header(const Reader& reader, live::Header* header) {
  *header = {};
  if (!reader.read(0, header, kFirstHeaderSize)) return false;
  if (header->size <= kFirstHeaderSize) return true;
  return reader.read(0, header, std::min<std::size_t>(header->size, sizeof *header));
}

// A topology that cannot be had is no error: names and figures are missing then.
void read_topology(const Reader& reader, const live::Header& header, LiveState* state) {
  for (int tries = 0; tries < kTries; ++tries) {
    live::Header before{};
    live::Header after{};
    std::vector<char> text;
    if (!read_header(reader, &before) || before.topology_sequence == 0) return;
    if (!reader.entries(header.topology, std::min(before.topology_size, header.topology.count), &text)) return;
    if (!read_header(reader, &after)) return;
    if (before.topology_sequence % 2 != 0 || before.topology_sequence != after.topology_sequence) continue;
    if (auto topology = from_json({text.data(), text.size()})) state->topology = std::move(*topology);
    return;
  }
}

Result<live::Header> check_header(int fd, Reader* reader) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return damaged("it is no file");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > kLargestObject) return damaged("it is too large");
  *reader = Reader(fd, size);
  live::Header header{};
  if (!read_header(*reader, &header)) return damaged("it is too small");
  if (header.magic != live::kMagic) return damaged("it does not begin as it should");
  if (header.version != live::kVersion) {
    return fail(ErrorCode::kNotSupported,
                fmt::format("it publishes version {} of its state, and this tool reads version {}: use the hms of the "
                            "MirrorCL that the process runs",
                            header.version, live::kVersion));
  }
  return header;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return result;
}

Result<LiveState> read_live_object(int fd) {
  Reader reader(fd, 0);
  const auto header = check_header(fd, &reader);
  if (!header) return tl::unexpected<Error>(header.error());
  LiveState state;
  state.pid = header->pid;
  state.ended = header->ended != 0;
  state.started_ns = header->started_ns;
  state.read_ns = monotonic_ns();
  if (!read_counters(reader, *header, &state)) return damaged("its counters do not lie in it");
  if (!read_histograms(reader, *header, &state)) return damaged("its histograms do not lie in it");
  if (!read_decisions(reader, *header, &state)) return damaged("its decisions do not lie in it");
  if (!read_blocks(reader, *header, &state)) return damaged("its blocks do not lie in it");
  if (!read_devices(reader, *header, &state)) return damaged("its devices do not lie in it");
  read_topology(reader, *header, &state);
  return state;
}

Result<LiveView> LiveView::open(pid_t pid) {
  const std::string folder = fmt::format("/proc/{}", pid);
  if (pid <= 0 || !std::filesystem::exists(folder)) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("there is no process {}", pid));
  }
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  std::error_code error;
  std::filesystem::directory_iterator links(folder + "/fd", error);
  if (error) {
    if (!std::filesystem::exists(folder)) {
      return fail(ErrorCode::kInvalidArgument, fmt::format("process {} has ended meanwhile", pid));
    }
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("process {} cannot be looked at: {} (run as its user or as root)", pid, error.message()));
  }
  const std::string wanted = fmt::format("/memfd:{} (deleted)", live::kObjectName);
  std::optional<Error> problem;
  for (; links != std::filesystem::directory_iterator(); links.increment(error)) {
    std::error_code ignored;
    if (std::filesystem::read_symlink(links->path(), ignored) != wanted) continue;
    // Whatever has this name: do not wait for it.
    UniqueFd object(::open(links->path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!object) {
      problem = Error{
          ErrorCode::kInvalidArgument,
          fmt::format("process {} cannot be looked at: {} (run as its user or as root)", pid, strerrordesc_np(errno))};
      continue;
    }
    Reader reader(object.get(), 0);
    auto header = check_header(object.get(), &reader);
    if (!header) {
      problem = Error{header.error().code, fmt::format("process {}: {}", pid, header.error().message)};
      continue;
    }
    // A forked child may still have its parent's.
    const pid_t own = pid_in_its_namespace(pid);
    if (own >= 0 && header->pid != own) continue;
    return LiveView(pid, std::move(process), std::move(object));
  }
  if (problem) return tl::unexpected<Error>(*problem);
  return fail(
      ErrorCode::kNotSupported,
      fmt::format("process {} has no mirror: it does not use MirrorCL, has not used a device yet, or its device "
                  "uses the application's own page tables (MIRRORCL_DEVICE=ats)",
                  pid));
}

bool LiveView::process_has_ended() const noexcept {
  if (!process_) return kill(pid_, 0) != 0 && errno == ESRCH;
  pollfd ended{process_.get(), POLLIN, 0};
  return poll(&ended, 1, 0) > 0;
}

Result<LiveState> LiveView::read(bool dead) const {
  if (!dead && process_has_ended()) {
    return fail(ErrorCode::kSystem, fmt::format("process {} has ended", pid_));
  }
  auto state = read_live_object(object_.get());
  if (!state) {
    return fail(state.error().code, fmt::format("process {}: {}", pid_, state.error().message));
  }
  state->pid = pid_;
  std::ifstream command(fmt::format("/proc/{}/comm", pid_));
  std::getline(command, state->command);
  state->command = printable(state->command);
  return state;
}

std::uint64_t LiveHistogram::quantile(double share) const {
  std::uint64_t total = 0;
  for (const std::uint64_t bucket : buckets) total += bucket;
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    seen += buckets[i];
    if (seen == 0 || static_cast<double>(seen) < share * static_cast<double>(total)) continue;
    return i + 1 == buckets.size() ? max : std::min(max, (std::uint64_t{1} << i) - 1);
  }
  return max;
}

const live::Block* LiveState::block(std::uint64_t address) const {
  constexpr std::uint64_t kBlockSize = std::uint64_t{2} << 20;
  const auto found = std::ranges::lower_bound(blocks, address & ~(kBlockSize - 1), {}, &live::Block::base);
  return found != blocks.end() && address - found->base < kBlockSize ? &*found : nullptr;
}

Uid LiveState::in_topology(Uid uid) const {
  for (const LiveDevice& device : devices) {
    if (uid == live::device_initiator(device.index)) return device.initiator;
    if (uid == live::device_memory(device.index)) return device.target;
  }
  const bool object = topology && (topology->target(uid) != nullptr || topology->initiator(uid) != nullptr);
  return object ? uid : kNoUid;
}

std::string LiveState::name_of(Uid uid) const {
  switch (uid) {
    case live::kHostThreads:
      return "the application";
    case live::kHostMemory:
      return "host memory";
    case live::kNowhere:
      return "nowhere";
    default:
      break;
  }
  const Uid known = in_topology(uid);
  if (topology) {
    if (const Target* target = topology->target(known)) return printable(target->name);
    if (const Initiator* initiator = topology->initiator(known)) return printable(initiator->name);
  }
  for (std::uint32_t i = 0; i < live::kMaxDevices; ++i) {
    const auto device = std::ranges::find(devices, i, &LiveDevice::index);
    std::string name = device != devices.end() ? device->name : fmt::format("device {}", i);
    if (uid == live::device_initiator(i)) return name;
    if (uid == live::device_memory(i)) return name + "'s memory";
  }
  return fmt::format("object {}", uid);
}

}  // namespace mirrorcl::hms
