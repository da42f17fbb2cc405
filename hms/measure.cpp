// SPDX-License-Identifier: Apache-2.0
#include "hms/measure.h"

#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <system_error>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "hms/query.h"

namespace mirrorcl::hms {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::size_t kLine = 64;  // bytes of a cache line on x86-64

std::uint64_t buffer_size(std::uint64_t wanted) {
  if (wanted != 0) return std::max<std::uint64_t>(wanted / kMiB, 1) * kMiB;
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const auto four_caches = cache > 0 ? 4 * static_cast<std::uint64_t>(cache) : 0;
  return std::clamp<std::uint64_t>(four_caches / kMiB * kMiB, 64 * kMiB, 1024 * kMiB);
}

Result<Mapping> buffer_on_node(std::int32_t node, std::uint64_t size) {
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return fail_errno(fmt::format("mmap of {} bytes to measure with", size), errno);
  Mapping mapping(address, size);
  constexpr std::size_t kBits = 8 * sizeof(unsigned long);
  std::vector<unsigned long> nodes(static_cast<std::size_t>(node) / kBits + 1);
  nodes.back() |= 1ul << (static_cast<std::size_t>(node) % kBits);
  // The kernel takes one bit less than it is told.
  if (syscall(SYS_mbind, address, size, MPOL_BIND, nodes.data(), nodes.size() * kBits + 1, 0) != 0) {
    if (errno == ENOSYS || errno == EPERM) {
      return fail(ErrorCode::kNotSupported, "this process may not choose NUMA nodes (mbind is refused)");
    }
    return fail(ErrorCode::kNotSupported,
                fmt::format("memory cannot be allocated on node {}: {}", node, std::generic_category().message(errno)));
  }
  madvise(address, size, MADV_HUGEPAGE);  // spares the latency of page-table walks; not vital
  return mapping;
}

// Runs on one CPU as long as it lives; gives the thread its old CPUs back afterwards.
class Pinned {
 public:
  explicit Pinned(std::uint32_t cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    if (cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof before_, &before_) != 0) return;
    CPU_SET(cpu, &one);
    ok_ = sched_setaffinity(0, sizeof one, &one) == 0;
  }
  ~Pinned() {
    if (ok_) sched_setaffinity(0, sizeof before_, &before_);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  bool ok() const { return ok_; }

 private:
  cpu_set_t before_{};
  bool ok_ = false;
};

// Keeps the compiler from removing a computation of `value`.
template <typename T>
void use(const T& value) {
  asm volatile("" : : "r,m"(value) : "memory");
}

// Two of the registers that every x86-64 processor has are loaded with each.
using Words = std::uint64_t __attribute__((vector_size(32), may_alias));

void read_stream(std::span<std::uint64_t> part) {
  constexpr std::size_t kWords = sizeof(Words) / sizeof(std::uint64_t), kAtOnce = 4;
  const auto* words = reinterpret_cast<const Words*>(part.data());
  Words sums[kAtOnce] = {};
  for (std::size_t i = 0; i + kAtOnce <= part.size() / kWords; i += kAtOnce) {
    for (std::size_t j = 0; j < kAtOnce; ++j) sums[j] += words[i + j];
  }
  for (const Words& sum : sums) use(sum[0] + sum[1] + sum[2] + sum[3]);
}

void copy_stream(std::span<std::uint64_t> part) {
  const std::size_t half = part.size() / 2;
  std::memcpy(part.data(), part.data() + half, half * sizeof(std::uint64_t));
  use(part.data());
}

// The duration that a quarter of all were not longer than: what a machine does when nobody disturbs it.
double lower_quartile(std::vector<double>& durations) {
  if (durations.empty()) return 0;
  const auto quarter = durations.begin() + static_cast<std::ptrdiff_t>(durations.size() / 4);
  std::nth_element(durations.begin(), quarter, durations.end());
  return *quarter;
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// All CPUs at once repeat `stream` on their parts for `time`. Returns MiB/s, 0 if a CPU cannot be used.
double stream_bandwidth(std::span<std::uint64_t> buffer, const std::vector<std::uint32_t>& cpus,
                        std::chrono::milliseconds time, void (*stream)(std::span<std::uint64_t>)) {
  const std::size_t words = buffer.size() / cpus.size() / 16 * 16;
  std::atomic<bool> usable{true};
  std::barrier start(static_cast<std::ptrdiff_t>(cpus.size()));
  std::vector<double> rates(cpus.size());  // bytes/s
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < cpus.size(); ++i) {
    threads.emplace_back([&, i] {
      const Pinned pinned(cpus[i]);
      if (!pinned.ok()) usable = false;
      const auto part = buffer.subspan(i * words, words);
      stream(part);  // warms translations up
      start.arrive_and_wait();
      std::vector<double> durations;
      for (const auto begin = Clock::now(); durations.empty() || Clock::now() - begin < time;) {
        const auto round = Clock::now();
        stream(part);
        durations.push_back(seconds_since(round));
      }
      rates[i] = static_cast<double>(part.size_bytes()) / std::max(lower_quartile(durations), 1e-9);
    });
  }
  for (auto& thread : threads) thread.join();
  return usable ? std::accumulate(rates.begin(), rates.end(), 0.0) / static_cast<double>(kMiB) : 0;
}

// One random cycle through all lines of the buffer (Sattolo's algorithm). Returns ns for each step, 0 if the CPU cannot
// be used.
double chase_latency(std::span<std::uint64_t> buffer, std::uint32_t cpu, std::chrono::milliseconds time) {
  const Pinned pinned(cpu);
  if (!pinned.ok()) return 0;
  constexpr std::size_t kStride = kLine / sizeof(std::uint64_t);
  constexpr int kSteps = 5'000;
  std::vector<std::uint32_t> next(buffer.size() / kStride);
  std::iota(next.begin(), next.end(), 0u);
  std::mt19937_64 random(1);
  for (std::size_t i = next.size() - 1; i > 0; --i) std::swap(next[i], next[random() % i]);
  for (std::size_t i = 0; i < next.size(); ++i) buffer[i * kStride] = next[i] * kStride;
  std::uint64_t at = 0;
  std::vector<double> durations;
  for (const auto begin = Clock::now(); durations.empty() || Clock::now() - begin < time;) {
    const auto round = Clock::now();
    for (int i = 0; i < kSteps; ++i) at = buffer[at];
    use(at);
    durations.push_back(seconds_since(round));
  }
  return lower_quartile(durations) * 1e9 / kSteps;
}

Value measured(double number) {
  return {static_cast<std::uint64_t>(std::max<long long>(1, std::llround(number))), Source::kMeasured};
}

bool is_needed(const Topology& topology, const Initiator& initiator, const Target& target) {
  const auto way = reach(topology, initiator.uid, target.uid);
  const auto unsure = [](const std::optional<Value>& value) { return !value || value->source == Source::kAssumed; };
  return !way || unsure(way->bandwidth) || unsure(way->latency);
}

}  // namespace

Result<Properties> measure(const Initiator& initiator, const Target& target, const MeasureOptions& options) {
  if (initiator.kind != InitiatorKind::kCpu || initiator.cpus.empty() || !target.is_host()) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("only CPUs and NUMA nodes can be measured, not {} and {}", initiator.name, target.name));
  }
  const std::uint64_t size = buffer_size(options.bytes);
  if (target.free && *target.free / 2 < size) {
    return fail(ErrorCode::kOutOfHostMemory, fmt::format("{} has not twice {} MiB free", target.name, size / kMiB));
  }
  auto mapping = buffer_on_node(target.node, size);
  if (!mapping) return tl::unexpected(mapping.error());
  const std::span<std::uint64_t> buffer(static_cast<std::uint64_t*>(mapping->address()), size / sizeof(std::uint64_t));
  const auto cpus = initiator.cpus.members();
  std::fill(buffer.begin(), buffer.end(), 1);

  const double copy = stream_bandwidth(buffer, cpus, options.time, copy_stream);
  const double read = stream_bandwidth(buffer, cpus, options.time, read_stream);
  const double latency = chase_latency(buffer, cpus.front(), options.time);
  if (copy == 0 || read == 0 || latency == 0) {
    return fail(ErrorCode::kNotSupported,
                fmt::format("this process may not run on CPUs {}", initiator.cpus.to_string()));
  }
  Properties figures;
  figures.set(Property::kBandwidth, measured(copy));
  figures.set(Property::kReadBandwidth, measured(read));
  figures.set(Property::kLatency, measured(latency));
  return figures;
}

Measurements measure_machine(const Topology& topology, const MeasureOptions& options, const PairReport& progress,
                             const PairFailure& skipped) {
  Measurements result;
  for (const Initiator& initiator : topology.initiators()) {
    if (initiator.kind != InitiatorKind::kCpu) continue;
    for (const Target& target : topology.targets()) {
      if (!target.is_host() || !target.online) continue;
      if (!options.all && !is_needed(topology, initiator, target)) continue;
      progress(initiator, target);
      const auto figures = measure(initiator, target, options);
      if (figures) {
        result.add(initiator.name, target.name, *figures);
      } else {
        skipped(initiator, target, figures.error());
      }
    }
  }
  return result;
}

}  // namespace mirrorcl::hms
